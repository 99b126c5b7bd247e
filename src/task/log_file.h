// SPDX-License-Identifier: Apache-2.0
//
// LogFile writes a container's output in the CRI's log format, "<RFC3339Nano> <stdout|stderr> <F|P> <text>\n": F for a
// whole line, P for a part of one that is longer than the limit or has no end yet when its stream ends. One thread.
//
// The file is a regular one, opened without following a link at its last component. What cannot be written (disk full)
// is dropped and counted: a container is never stopped by its log.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::task {

class LogFile {
 public:
  enum Stream { kStdout = 0, kStderr = 1 };

  // Creates or appends to `path`. Errors: kInvalidArgument for what is no regular file.
  static Result<std::unique_ptr<LogFile>> Open(const std::string& path, size_t max_line_bytes);

  // Bytes that one stream gave; whole lines are written at once.
  void Write(Stream stream, std::string_view bytes);
  // The stream has ended: what is left of it is written.
  void End(Stream stream);
  // Opens the path anew, after someone has moved the file away. On failure the old file stays in use.
  Result<> Reopen();

  uint64_t dropped_bytes() const { return dropped_bytes_; }

 private:
  LogFile(std::string path, size_t max_line_bytes) : path_(std::move(path)), max_line_bytes_(max_line_bytes) {}
  Result<UniqueFd> OpenPath() const;
  void Append(Stream stream, char tag, std::string_view text);
  void Flush();

  const std::string path_;
  const size_t max_line_bytes_;
  UniqueFd fd_;
  std::string pending_[2];  // the begin of a line whose end has not come
  std::string head_[2];     // "<time> stdout "
  std::string out_;
  bool torn_ = false;  // the last write ended within a line
  uint64_t dropped_bytes_ = 0;
};

}  // namespace caisson::task

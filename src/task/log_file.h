// SPDX-License-Identifier: Apache-2.0
//
// LogFile writes a container's output in the CRI's log format, "<RFC3339Nano> <stdout|stderr> <F|P> <text>\n": F for a
// whole line, P for a part of one that is longer than the limit or has no end yet when its stream ends. One thread.
//
// The file is a regular one: neither it nor the folder it is in may be a symbolic link (a container that may write to
// the node's log folder could point it elsewhere), and ".." is refused. That someone moves or deletes the file changes
// nothing until Reopen.
//
// A container is never stopped by its log: what cannot be written (disk full) is dropped and counted, and when writing
// works again a line of the stream "stderr" says how much is missing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"
#include "task/scratch.h"

namespace caisson::task {

class LogFile {
 public:
  enum Stream { kStdout = 0, kStderr = 1 };
  static constexpr size_t kMaxLineBytes = 128 << 10;  // what `max_line_bytes` is cut to

  // Creates or appends to the absolute `path`. `max_line_bytes` 0: limits::kLogChunkBytes. Errors: kInvalidArgument for
  // a path that must not be. `scratch` outlives it.
  static Result<std::unique_ptr<LogFile>> Open(const std::string& path, size_t max_line_bytes, Scratch* scratch);

  // Bytes that one stream gave; whole lines are written at once. `bytes` may be in scratch's in().
  void Write(Stream stream, std::string_view bytes);
  // The stream has ended: what is left of it is written.
  void End(Stream stream);
  // Opens the path anew, after someone has moved the file away. On failure the old file stays in use.
  Result<> Reopen();

  uint64_t dropped_bytes() const { return dropped_bytes_; }
  uint64_t dropped_lines() const { return dropped_lines_; }

 private:
  LogFile(std::string path, size_t max_line_bytes, Scratch* scratch)
      : path_(std::move(path)), max_line_bytes_(max_line_bytes), scratch_(scratch) {}
  void StartBatch(Stream stream);
  void Append(char tag, std::string_view begin, std::string_view rest);
  void Flush();
  // What of `text` could not be written.
  std::string_view WriteOut(std::string_view text);
  void NoteLoss();

  const std::string path_;
  const size_t max_line_bytes_;
  Scratch* scratch_;
  UniqueFd fd_;
  std::string pending_[2];  // the begin of a line whose end has not come
  char head_[48];           // "<time> stdout F "
  size_t head_bytes_ = 0;
  size_t filled_ = 0;       // of scratch's out()
  bool torn_ = false;       // the last write ended within a line
  int write_errno_ = 0;
  uint64_t unnoted_bytes_ = 0, unnoted_lines_ = 0;
  uint64_t dropped_bytes_ = 0, dropped_lines_ = 0;
};

}  // namespace caisson::task

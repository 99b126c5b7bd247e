// SPDX-License-Identifier: Apache-2.0
//
// LogReader reads a container's log in the CRI's format ("<RFC3339Nano> <stdout|stderr> <F|P> <text>") and puts lines
// together again. One thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::cli {

class LogReader {
 public:
  // `text` ends in a line end unless the container's line did not (a part, or the last without one).
  using Sink = std::function<void(bool is_stderr, std::string_view text)>;

  explicit LogReader(std::string path) : path_(std::move(path)) {}

  // Passes on what has been written since the last call. Follows a rotation: when the path names another file, the old
  // one is read to its end first. A log that is not there yet is empty.
  Result<> ReadNew(const Sink& sink);
  // Only the last `lines` of what is there are passed on by the next ReadNew.
  void SetTail(int lines) { tail_ = lines; }

  // One line without its line end; false if it is not of the format.
  static bool ParseLine(std::string_view line, bool* is_stderr, bool* whole, std::string_view* text);

 private:
  Result<> Drain(const Sink& sink);
  Result<> SkipToTail();
  bool Reopened();

  std::string path_;
  UniqueFd fd_;
  std::string pending_;
  int tail_ = -1;
};

}  // namespace caisson::cli

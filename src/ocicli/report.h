// SPDX-License-Identifier: Apache-2.0
//
// What a command says of itself: to stderr, and to the file that --log names, where containerd, Docker, CRI-O and podman
// look for the reason of a failure (one JSON object a line: "level", "msg", "time").
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace caisson::ocicli {

class Report {
 public:
  // `path` empty: stderr alone. Errors: `format` is neither "text" nor "json"; the file cannot be made.
  static Result<Report> Open(const std::string& path, const std::string& format, bool debug);

  void Error(std::string_view text) const { Write("error", text); }
  void Warn(std::string_view text) const { Write("warning", text); }
  void Debug(std::string_view text) const {
    if (debug_) Write("debug", text);
  }

 private:
  void Write(const char* level, std::string_view text) const;

  std::string path_;
  bool json_ = false, debug_ = false;
};

}  // namespace caisson::ocicli

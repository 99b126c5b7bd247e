// SPDX-License-Identifier: Apache-2.0
//
// A log line is one write(2) of `time=… level=… msg="…" key=value …` (logfmt) to one descriptor, so lines of several
// threads and processes do not mix. Only main() and the RPC edges log; library code returns errors. Secrets are never
// passed to it. Thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace caisson::log {

enum class Level : int { kDebug = 0, kInfo = 1, kWarn = 2, kError = 3 };

// Lines below `level` are dropped. May be changed at any time.
void SetLevel(Level level);
Level GetLevel();
// "debug", "info", "warn", "error"; false for any other word.
bool ParseLevel(std::string_view word, Level* level);
// Where lines go; the caller keeps the descriptor open. Default 2.
void SetFd(int fd);
// Writes one line; `text` is quoted, so it may hold anything.
void Write(Level level, std::string_view text);

template <class... Args>
void Debug(fmt::format_string<Args...> format, Args&&... args) {
  if (GetLevel() <= Level::kDebug) Write(Level::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void Info(fmt::format_string<Args...> format, Args&&... args) {
  if (GetLevel() <= Level::kInfo) Write(Level::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void Warn(fmt::format_string<Args...> format, Args&&... args) {
  if (GetLevel() <= Level::kWarn) Write(Level::kWarn, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void Error(fmt::format_string<Args...> format, Args&&... args) {
  Write(Level::kError, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace caisson::log

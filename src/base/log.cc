// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <unistd.h>

#include <atomic>

#include "base/clock.h"
#include "base/limits.h"

namespace caisson::log {
namespace {

std::atomic<int> level_now{static_cast<int>(Level::kInfo)};
std::atomic<int> fd_now{2};

constexpr std::string_view kNames[] = {"debug", "info", "warn", "error"};

void AppendQuoted(std::string* out, std::string_view text) {
  out->push_back('"');
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(c);
    } else if (c == '\n') {
      *out += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      *out += fmt::format("\\x{:02x}", byte);
    } else {
      out->push_back(c);
    }
  }
  out->push_back('"');
}

}  // namespace

void SetLevel(Level level) { level_now = static_cast<int>(level); }
Level GetLevel() { return static_cast<Level>(level_now.load(std::memory_order_relaxed)); }

bool ParseLevel(std::string_view word, Level* level) {
  for (int i = 0; i < 4; ++i) {
    if (word == kNames[i]) {
      *level = static_cast<Level>(i);
      return true;
    }
  }
  return false;
}

void SetFd(int fd) { fd_now = fd; }

void Write(Level level, std::string_view text) {
  if (level < GetLevel()) return;
  std::string line = fmt::format("time={} level={} msg=", FormatRfc3339Nano(NowNanos()), kNames[static_cast<int>(level)]);
  AppendQuoted(&line, text.substr(0, limits::kLogLineBytes));
  line.push_back('\n');
  // A log that cannot be written has nowhere to complain to.
  [[maybe_unused]] ssize_t written = write(fd_now, line.data(), line.size());
}

}  // namespace caisson::log

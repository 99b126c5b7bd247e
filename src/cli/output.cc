// SPDX-License-Identifier: Apache-2.0
#include "cli/output.h"

#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>

#include "base/clock.h"

namespace caisson::cli {

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Printable(row[i]).size());
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      std::string cell = Printable(row[i]);
      text += i + 1 == row.size() ? cell : fmt::format("{:<{}}  ", cell, widths[i]);
    }
    text += '\n';
  }
  return text;
}

std::string FormatBytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 6) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string FormatDuration(int64_t nanos) {
  constexpr int64_t kMinute = 60 * kNanosPerSecond;
  if (nanos < 10 * kNanosPerMilli) return fmt::format("{:.2f} ms", static_cast<double>(nanos) / kNanosPerMilli);
  if (nanos < kNanosPerSecond) return fmt::format("{} ms", nanos / kNanosPerMilli);
  if (nanos < kMinute) return fmt::format("{:.1f} s", static_cast<double>(nanos) / kNanosPerSecond);
  if (nanos < 120 * kMinute) return fmt::format("{} min", nanos / kMinute);
  if (nanos < 48 * 60 * kMinute) return fmt::format("{} h", nanos / (60 * kMinute));
  return fmt::format("{} days", nanos / (24 * 60 * kMinute));
}

std::string FormatAge(int64_t nanos, int64_t now) {
  return nanos <= 0 ? "-" : FormatDuration(std::max<int64_t>(0, now - nanos));
}

std::string ShortId(std::string_view id) {
  if (id.starts_with("sha256:")) id.remove_prefix(7);
  return std::string(id.substr(0, 13));
}

std::string Printable(std::string_view text) {
  std::string clean;
  for (char c : text) {
    bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    clean.push_back(control ? '?' : c);
  }
  return clean;
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  std::string text;
  auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  return status.ok() ? text : fmt::format("{{\"error\": \"{}\"}}\n", status.ToString());
}

void Print(std::string_view text) {
  while (!text.empty()) {
    ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
    if (written <= 0) return;  // the reader has gone: nothing left to say
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace caisson::cli

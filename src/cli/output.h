// SPDX-License-Identifier: Apache-2.0
//
// How the command prints: aligned tables for people, JSON for programs. Pure but for Print*.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <google/protobuf/message.h>

namespace caisson::cli {

// Rows of equal length, the first is the heading; columns are padded to their widest cell.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);
// "1.5 GiB", "512 B".
std::string FormatBytes(uint64_t bytes);
// "12 ms", "3.4 s", "5 min", "3 h", "9 days".
std::string FormatDuration(int64_t nanos);
// How long ago a CRI timestamp (nanoseconds since 1970) was; "-" for none.
std::string FormatAge(int64_t nanos, int64_t now);
// The first 13 hex digits of an id, without "sha256:".
std::string ShortId(std::string_view id);
// Without control characters, so that a name from a stranger cannot drive the terminal.
std::string Printable(std::string_view text);

// The message as indented JSON, with fields of default value too.
std::string ToJson(const google::protobuf::Message& message);
void Print(std::string_view text);

}  // namespace caisson::cli

// SPDX-License-Identifier: Apache-2.0
#include "base/strings.h"

#include <charconv>

namespace caisson {
namespace {

template <class T>
Result<T> ParseWhole(std::string_view text) {
  T value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) {
    return MakeError(Code::kInvalidArgument, "number '{}' is out of range", text.substr(0, 40));
  }
  if (error != std::errc() || end != text.data() + text.size()) {
    return MakeError(Code::kInvalidArgument, "'{}' is not a number", text.substr(0, 40));
  }
  return value;
}

}  // namespace

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  for (;;) {
    size_t at = text.find(separator);
    pieces.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return pieces;
    text.remove_prefix(at + 1);
  }
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::string Join(const std::vector<std::string>& pieces, std::string_view separator) {
  std::string joined;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i > 0) joined += separator;
    joined += pieces[i];
  }
  return joined;
}

Result<int64_t> ParseInt64(std::string_view text) { return ParseWhole<int64_t>(text); }
Result<uint64_t> ParseUint64(std::string_view text) { return ParseWhole<uint64_t>(text); }

std::string HexEncode(std::string_view bytes) {
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (unsigned char byte : bytes) {
    hex.push_back("0123456789abcdef"[byte >> 4]);
    hex.push_back("0123456789abcdef"[byte & 15]);
  }
  return hex;
}

}  // namespace caisson

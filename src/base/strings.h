// SPDX-License-Identifier: Apache-2.0
//
// The few string functions the standard library lacks. Pure; views returned point into the argument.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson {

// Pieces between each `separator`; an empty text gives one empty piece.
std::vector<std::string_view> Split(std::string_view text, char separator);
// Without leading and trailing spaces, tabs and line ends.
std::string_view Trim(std::string_view text);
std::string Join(const std::vector<std::string>& pieces, std::string_view separator);
// The whole of `text` as a decimal number: no sign for the unsigned, no spaces, no overflow; else kInvalidArgument.
Result<int64_t> ParseInt64(std::string_view text);
Result<uint64_t> ParseUint64(std::string_view text);
std::string HexEncode(std::string_view bytes);

}  // namespace caisson

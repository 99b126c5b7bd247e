// SPDX-License-Identifier: Apache-2.0
//
// JSON from strangers: bounded in size and depth, duplicate keys refused, nothing throws. json.cc is the one file that
// catches what nlohmann-json throws. Include this header (not nlohmann's) where values are read; the accessors never
// throw either.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/limits.h"
#include "base/result.h"

namespace caisson {

using Json = nlohmann::json;

// Parses one document of at most `max_bytes`, nested at most limits::kJsonDepth, without duplicate keys in an object.
// Errors: kInvalidArgument with the offset and reason (never the text: it may hold a secret).
Result<Json> ParseJson(std::string_view text, size_t max_bytes = limits::kJsonBytes);
// Compact text. Bytes that are not UTF-8 become U+FFFD.
std::string DumpJson(const Json& value);

}  // namespace caisson

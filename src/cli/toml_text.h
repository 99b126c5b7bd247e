// SPDX-License-Identifier: Apache-2.0
//
// TOML as text, for what is written for others to read. Pure.
#pragma once

#include <string>
#include <string_view>

namespace caisson::cli {

// A basic string of TOML 1.0, with its quotes.
std::string QuotedToml(std::string_view text);

}  // namespace caisson::cli

// SPDX-License-Identifier: Apache-2.0
#include "cli/toml_text.h"

#include <fmt/format.h>

namespace caisson::cli {

std::string QuotedToml(std::string_view text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20 || c == 0x7f) {
      out += fmt::format("\\u{:04x}", c);
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

}  // namespace caisson::cli

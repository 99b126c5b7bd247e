// SPDX-License-Identifier: Apache-2.0
#include "sys/proc_text.h"

#include "base/strings.h"

namespace caisson::sys {

std::vector<std::string_view> StatFields(std::string_view stat) {
  size_t after_name = stat.rfind(") ");
  if (after_name == std::string_view::npos) return {};
  return Split(stat.substr(after_name + 2), ' ');
}

uint64_t ProcNumber(std::string_view text, std::string_view key) {
  for (std::string_view line : Split(text, '\n')) {
    if (!line.starts_with(key)) continue;
    line = Trim(line.substr(key.size()));
    return ParseUint64(line.substr(0, line.find(' '))).value_or(0);
  }
  return 0;
}

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
#include "base/cgroup_path.h"

#include <fmt/format.h>

namespace caisson {

std::string CgroupsPath(std::string_view parent, bool systemd, std::string_view prefix, std::string_view leaf) {
  if (!systemd) return fmt::format("{}/{}", parent.empty() ? "/caisson" : parent, leaf);
  std::string_view slice = parent.substr(parent.rfind('/') + 1);
  return fmt::format("{}:{}:{}", slice.empty() ? "system.slice" : slice, prefix, leaf);
}

}  // namespace caisson

// SPDX-License-Identifier: Apache-2.0
#include "sys/cgroup.h"

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto all = caisson::sys::ParseCgroupMembership(text)) {
    for (const auto& one : *all) {
      if (one.path.empty() || one.path[0] != '/') __builtin_trap();
    }
  }
  if (auto mounts = caisson::sys::ParseMountInfo(text)) (void)ModeOf(caisson::sys::CgroupMounts(*mounts));
  return 0;
}

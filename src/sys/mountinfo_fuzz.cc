// SPDX-License-Identifier: Apache-2.0
#include "sys/mountinfo.h"

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto mounts = caisson::sys::ParseMountInfo(text)) {
    for (const auto& mount : *mounts) {
      if (mount.mount_point.empty()) __builtin_trap();
    }
  }
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_systemd.h"

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  auto reply = caisson::oci::ParseDbusMessage(bytes);
  if (reply && reply->size > size) __builtin_trap();
  auto path = caisson::oci::ParseSystemdPath(bytes);
  if (path && path->path.find("..") != std::string::npos && path->scope.find("..") == std::string::npos &&
      path->slice.find("..") == std::string::npos) {
    __builtin_trap();
  }
  (void)caisson::oci::CpuListBits(bytes);
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_systemd.h"

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  auto reply = caisson::oci::ParseDbusMessage(bytes);
  if (reply && reply->size > size) __builtin_trap();
  auto path = caisson::oci::ParseSystemdPath(bytes);
  // No component of it leads up or is empty.
  std::string slashed = path ? "/" + path->path + "/" : "";
  for (const char* wrong : {"/../", "/./", "//"}) {
    if (slashed.find(wrong) != std::string::npos) __builtin_trap();
  }
  (void)caisson::oci::CpuListBits(bytes);
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "image/hosts.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  auto hosts = caisson::image::ParseHostsToml(text, "hosts.toml", "/certs", "registry.example.com");
  if (hosts && hosts->empty()) std::abort();
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "image/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  // The first byte chooses what the sender says it is.
  constexpr std::string_view kTypes[] = {"", caisson::image::kOciIndex, caisson::image::kDockerManifest};
  std::string_view type = size == 0 ? "" : kTypes[data[0] % 3];
  auto parsed = caisson::image::ParseManifest(text.substr(size == 0 ? 0 : 1), type);
  if (parsed && std::holds_alternative<caisson::image::Index>(*parsed)) {
    (void)caisson::image::ChoosePlatform(std::get<caisson::image::Index>(*parsed), caisson::image::HostPlatform());
  }
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <string>

#include "cri/cdi_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string text(reinterpret_cast<const char*>(data), size);
  for (auto format : {caisson::cri::CdiFormat::kJson, caisson::cri::CdiFormat::kYaml}) {
    auto spec = caisson::cri::ParseCdiSpec(text, format);
    if (!spec) continue;
    for (const auto& device : spec->devices) {
      if (!caisson::cri::ParseCdiName(spec->kind + "=" + device.name)) __builtin_trap();
    }
  }
  (void)caisson::cri::ParseCdiName(text);
  return 0;
}

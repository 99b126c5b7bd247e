// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "image/reference.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  auto reference = caisson::image::ParseReference(text);
  // What was accepted must mean itself when it is read again.
  if (reference) {
    auto again = caisson::image::ParseReference(reference->ToString());
    if (!again || again->ToString() != reference->ToString()) std::abort();
  }
  return 0;
}

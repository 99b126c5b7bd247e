// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "shim/foreign_start.h"

// What another project's shim prints when it is started.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto address = caisson::shim::ParseShimAnswer({reinterpret_cast<const char*>(data), size});
  if (!address) return 0;
  if (!address->socket.starts_with('/') || (address->version != 2 && address->version != 3)) abort();
  return 0;
}

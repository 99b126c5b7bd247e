// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "net/cni_result.h"

using caisson::net::CniError;
using caisson::net::ParseCniError;
using caisson::net::ParseCniResult;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  CniError error;
  ParseCniError(text, &error);
  for (const char* version : {"0.3.1", "0.4.0", "1.1.0"}) {
    auto result = ParseCniResult(text, version, "eth0");
    if (!result) continue;
    // What is given on as prevResult must be readable again and say the same.
    auto again = ParseCniResult(result->json, version, "eth0");
    if (!again || again->ips != result->ips || again->mac != result->mac) __builtin_trap();
  }
  return 0;
}

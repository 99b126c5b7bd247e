// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "ttrpc/frame.h"

// The first byte says into how many pieces the rest is cut: frames must not depend on how bytes arrive.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson::ttrpc;
  if (size == 0) return 0;
  size_t step = data[0] == 0 ? size : data[0];
  FrameReader reader;
  for (size_t at = 1; at < size; at += step) {
    size_t length = step < size - at ? step : size - at;
    reader.Add({reinterpret_cast<const char*>(data) + at, length});
    for (;;) {
      auto frame = reader.Next();
      if (!frame) return 0;
      if (!frame->has_value()) break;
      auto again = EncodeFrame(**frame);
      if (!again || again->size() != kFrameHeaderBytes + (*frame)->payload.size()) abort();
    }
  }
  return 0;
}

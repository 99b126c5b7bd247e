// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "image/challenge.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<caisson::image::Challenge> challenges;
  caisson::image::ParseChallenges(text, &challenges);
  if (challenges.size() > 8) std::abort();
  return 0;
}

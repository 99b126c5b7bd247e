// SPDX-License-Identifier: Apache-2.0
#include "oci/plan.h"
#include "oci/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto spec = caisson::oci::ParseSpec(text)) {
    if (auto plan = caisson::oci::MakePlan(*spec, "/bundle", {})) (void)caisson::oci::Describe(*plan);
  }
  (void)caisson::oci::ParseProcess(text).has_value();
  (void)caisson::oci::ParseResources(text).has_value();
  return 0;
}

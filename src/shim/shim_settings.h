// SPDX-License-Identifier: Apache-2.0
//
// ShimSettings: what a companion that caissond has not started is to make of its pods. A JSON object in a file, with the keys that a
// handler's table of caissond has for the same things (docs/config.md); all are optional, one that is not known is an error. Pure but for
// LoadShimSettings.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/vm_size.h"

namespace caisson::shim {

inline constexpr char kSeccompFolder[] = "/run/caisson/seccomp";  // compiled filters of all companions that caissond has not started

// Read where nobody names another file; it need not be there.
inline constexpr char kShimSettingsFile[] = "/etc/caisson/shim.json";
// In the environment: the path of another one.
inline constexpr char kShimSettingsVariable[] = "CAISSON_SHIM_CONFIG";

struct ShimSettings {
  std::string sandbox = "native";  // or "vm": pods are virtual machines also of the runtime io.containerd.caisson.v2
  std::string kernel = kGuestKernel, initrd = kGuestInitrd;
  std::string vmm_path;               // empty: where its package puts it
  std::string machine = "microvm";    // or "q35"
  std::string accelerator = "auto";   // "kvm", "tcg", or whichever a probe finds
  int64_t vcpus = kVmVcpus;           // of a pod without a CPU limit
  int64_t memory_bytes = kVmMemoryBytes;  // of a pod without a memory limit
  int64_t first_vmm_id = kFirstVmmId;
};

// Errors: kInvalidArgument naming the key.
Result<ShimSettings> ParseShimSettings(std::string_view json);
// Of the file `path`; with an empty one of kShimSettingsFile if there is one. Errors name the file.
Result<ShimSettings> LoadShimSettings(const std::string& path);

}  // namespace caisson::shim

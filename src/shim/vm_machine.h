// SPDX-License-Identifier: Apache-2.0
//
// The machine that VmOptions describe: the same for a pod that boots, for a template and for its clones. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "caisson/pod/v1/pod.pb.h"
#include "vmm/vm.h"

namespace caisson::shim {

inline constexpr int64_t kVmmMillis = 10'000;
// A cold boot under emulation on a busy host; one that hangs is told by its silence.
inline constexpr int64_t kBootMillis = 60'000;

// kUnimplemented: there is no such VMM.
Result<> CheckVmOptions(const pod::v1::VmOptions& options);
// The guest's port for files: our end and the VMM's (VmConfig::files_fd). Each machine has one, also a template that nobody serves.
Result<std::pair<UniqueFd, UniqueFd>> MakeFilesPort();
// Without a tap, a memory file, cgroups.
vmm::VmConfig VmConfigOf(const std::string& name, const std::string& run_dir, const pod::v1::VmOptions& options);

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
//
// QEMU's command line for a VmConfig. Pure. QEMU gets descriptors by their numbers, no path but of its own program and
// firmware, and nothing of the config's that it would parse further (VmConfig is checked by CheckVmConfig).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "vmm/vm.h"

namespace caisson::vmm {

inline constexpr char kQemuAgentPort[] = "caisson.agent.0";
inline constexpr char kQemuFilesPort[] = "caisson.files.0";
inline constexpr char kQemuDiskBus[] = "disks.0";
inline constexpr int kQemuMemorySlots = 32;  // that DIMMs can be plugged into, where there are any

// Numbers in QEMU's process; -1: there is none.
struct QemuFds {
  int qmp = -1, channel = -1, console = -1, kernel = -1, initrd = -1, memory = -1;
  int files = -1;
  int tap = -1;  // -1: a NIC that is connected to nothing
};

struct QemuHost {
  bool arm64 = false;
  uint32_t tsc_khz = 0;  // TscKilohertz; 0: not told to the guest
};

// kInvalidArgument names the field.
Result<> CheckVmConfig(const VmConfig& config);
// Of the config's program or the default one for this machine.
std::string QemuProgram(const VmConfig& config, const QemuHost& host);
std::vector<std::string> QemuArguments(const VmConfig& config, const QemuFds& fds, const QemuHost& host);

}  // namespace caisson::vmm

// SPDX-License-Identifier: Apache-2.0
//
// Why a pod's VM has ended: a word for programs and a sentence for people, of what the VMM's status, the host's cgroup and the
// console's last words say. The console is the guest's own: it decides only between reasons within the guest. Pure, but for
// the file that tells the daemon when the companion no longer can.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace caisson::shim {

// <bundle>/vm-end: the word, a line end, the sentence.
inline constexpr char kVmEndFile[] = "vm-end";

struct VmEnd {
  std::string reason;   // "GuestPanic", "AgentDied", "VmmKilled", "VmOutOfMemory", "FileServerDied", "VmEnded"
  std::string message;  // with the very end of the console

  bool happened() const { return !reason.empty(); }
};

// `vmm_status`: vmm::Vm::EndReason. `oom_kills`: how many processes in the VMM's cgroup the host's kernel has killed for
// want of memory. `console`: enough of its end to hold a panic with its stack.
VmEnd ExplainVmEnd(const std::string& vmm_status, uint64_t oom_kills, const std::string& console);
Result<> WriteVmEnd(const std::string& bundle, const VmEnd& end);

}  // namespace caisson::shim

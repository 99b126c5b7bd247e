// SPDX-License-Identifier: Apache-2.0
//
// What runs a guest's code on this host: KVM, if it does so at the speed of hardware, else QEMU's TCG. That /dev/kvm is there
// and can make virtual machines proves nothing: a host that is a guest itself may interpret their code. So a guest of a few
// instructions counts down in a child process, and the time is taken.
//
// No state. The probe forks: a process of one thread.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "vmm/vm.h"

namespace caisson::vmm {

struct AcceleratorProbe {
  Accelerator accelerator = Accelerator::kTcg;
  std::string reason;  // "1240 million guest instructions per second"; "/dev/kvm: No such file or directory"
};

// Less than 1 ms of a processor's time where KVM works, some 40 elsewhere; 1 s at most. `device`: for tests.
AcceleratorProbe ProbeAccelerator(const std::string& device = "/dev/kvm");
const char* AcceleratorName(Accelerator accelerator);

// The frequency of the time stamp counter in kHz: under TCG it is what the guest's counter has, and a guest that measures it
// itself may hang in that. Takes 2 ms. 0 where there is none (arm64 guests read theirs from a register).
uint32_t TscKilohertz();

}  // namespace caisson::vmm

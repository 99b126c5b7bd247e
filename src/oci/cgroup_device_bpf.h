// SPDX-License-Identifier: Apache-2.0
//
// linux.resources.devices on cgroup v2: an eBPF program of type BPF_PROG_TYPE_CGROUP_DEVICE that the kernel asks for
// each mknod and open of a device (cgroup-v2.rst, "Device controller"; bpf(2)).
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "oci/cgroup.h"
#include "sys/bpf.h"

namespace caisson::oci {

using sys::BpfInstruction;

// The program for `rules`: of the rules that match a device the last one decides on each of its access bits; what no
// rule names is denied. Errors: kInvalidArgument for a bad rule; kResourceExhausted for more than 4000 of them.
Result<std::vector<BpfInstruction>> CompileDeviceRules(const std::vector<Resources::DeviceRule>& rules);

// Loads `program` and attaches it to the group `dir`, then detaches what was attached there before; in between both
// hold, so nothing is ever allowed that neither allows. Errors: bpf(2) with the verifier's last words.
Result<> AttachDeviceProgram(const std::string& dir, const std::vector<BpfInstruction>& program);

}  // namespace caisson::oci

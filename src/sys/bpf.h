// SPDX-License-Identifier: Apache-2.0
//
// eBPF programs of our own, a few instructions each and written as such (bpf(2); Documentation/bpf/standardization/instruction-set.rst).
// No state; any thread.
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::sys {

// One instruction (struct bpf_insn), eight bytes.
using BpfInstruction = uint64_t;
BpfInstruction MakeBpf(uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm);

// bpf(2): -1 and errno, or what the command gives.
int Bpf(bpf_cmd command, bpf_attr* attr);

// Loads a program of type `type`; `attach_type` where that type has several, else 0. `what` names it in errors, which have the verifier's
// last words.
Result<UniqueFd> LoadBpf(bpf_prog_type type, uint32_t attach_type, const std::vector<BpfInstruction>& program, std::string_view what);

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
#include "sys/bpf.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace caisson::sys {

BpfInstruction MakeBpf(uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
  bpf_insn insn{};
  insn.code = code;
  insn.dst_reg = dst & 0xf;
  insn.src_reg = src & 0xf;
  insn.off = off;
  insn.imm = imm;
  BpfInstruction out;
  static_assert(sizeof out == sizeof insn);
  memcpy(&out, &insn, sizeof out);
  return out;
}

int Bpf(bpf_cmd command, bpf_attr* attr) { return static_cast<int>(syscall(SYS_bpf, command, attr, sizeof *attr)); }

Result<UniqueFd> LoadBpf(bpf_prog_type type, uint32_t attach_type, const std::vector<BpfInstruction>& program, std::string_view what) {
  bpf_attr attr{};
  attr.prog_type = type;
  attr.expected_attach_type = attach_type;
  attr.insns = reinterpret_cast<uint64_t>(program.data());
  attr.insn_cnt = static_cast<uint32_t>(program.size());
  attr.license = reinterpret_cast<uint64_t>("Apache-2.0");
  UniqueFd fd(Bpf(BPF_PROG_LOAD, &attr));
  if (fd) return fd;
  int err = errno;
  // Once more with a log, which costs time and is wanted only when something is wrong.
  std::string log(16384, '\0');
  attr.log_level = 1;
  attr.log_buf = reinterpret_cast<uint64_t>(log.data());
  attr.log_size = static_cast<uint32_t>(log.size());
  fd = UniqueFd(Bpf(BPF_PROG_LOAD, &attr));
  if (fd) return fd;
  log.resize(strlen(log.c_str()));
  if (log.size() > 200) log.erase(0, log.size() - 200);
  return SysError(err, fmt::format("load the {} program ({})", what, log));
}

}  // namespace caisson::sys

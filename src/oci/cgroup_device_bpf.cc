// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_device_bpf.h"

#include <fcntl.h>

#include "base/unique_fd.h"

namespace caisson::oci {
namespace {

using sys::Bpf;
using sys::LoadBpf;
using sys::MakeBpf;

constexpr size_t kMaxRules = 4000;
constexpr int kMaxPrograms = 64;  // BPF_CGROUP_MAX_PROGS

BpfInstruction Load32(uint8_t dst, int16_t off) { return MakeBpf(BPF_LDX | BPF_MEM | BPF_W, dst, BPF_REG_1, off, 0); }
BpfInstruction Alu(uint8_t op, uint8_t dst, int32_t imm) { return MakeBpf(BPF_ALU | op | BPF_K, dst, 0, 0, imm); }
BpfInstruction Copy(uint8_t dst, uint8_t src) { return MakeBpf(BPF_ALU | BPF_MOV | BPF_X, dst, src, 0, 0); }
BpfInstruction JumpNotEqual(uint8_t reg, int32_t imm, size_t over) {
  return MakeBpf(BPF_JMP | BPF_JNE | BPF_K, reg, 0, static_cast<int16_t>(over), imm);
}
void Return(int32_t value, std::vector<BpfInstruction>* out) {
  out->push_back(Alu(BPF_MOV, BPF_REG_0, value));
  out->push_back(MakeBpf(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
}

// Registers: 2 type, 3 access bits not decided yet, 4 major, 5 minor, 6 scratch.
Result<std::vector<BpfInstruction>> CompileRule(const Resources::DeviceRule& rule) {
  int32_t access = 0;
  for (char c : rule.access.empty() ? std::string("rwm") : rule.access) {
    if (c == 'r') access |= BPF_DEVCG_ACC_READ;
    else if (c == 'w') access |= BPF_DEVCG_ACC_WRITE;
    else if (c == 'm') access |= BPF_DEVCG_ACC_MKNOD;
    else return MakeError(Code::kInvalidArgument, "device rule: access '{}' is not made of 'rwm'", rule.access);
  }
  std::vector<BpfInstruction> verdict;
  if (rule.allow) {
    verdict.push_back(Alu(BPF_AND, BPF_REG_3, ~access));
    verdict.push_back(JumpNotEqual(BPF_REG_3, 0, 2));
    Return(1, &verdict);
  } else {
    verdict.push_back(Copy(BPF_REG_6, BPF_REG_3));
    verdict.push_back(Alu(BPF_AND, BPF_REG_6, access));
    verdict.push_back(MakeBpf(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_6, 0, 2, 0));
    Return(0, &verdict);
  }
  std::vector<std::pair<uint8_t, int32_t>> conditions;
  if (rule.type == 'b') conditions.emplace_back(BPF_REG_2, BPF_DEVCG_DEV_BLOCK);
  else if (rule.type == 'c') conditions.emplace_back(BPF_REG_2, BPF_DEVCG_DEV_CHAR);
  else if (rule.type != 'a') return MakeError(Code::kInvalidArgument, "device rule: type '{}' is not a, b or c", rule.type);
  for (auto [reg, number] : {std::pair{BPF_REG_4, rule.major}, std::pair{BPF_REG_5, rule.minor}}) {
    if (number.value_or(-1) < 0) continue;
    if (*number > INT32_MAX) return MakeError(Code::kInvalidArgument, "device rule: number {} is too large", *number);
    conditions.emplace_back(static_cast<uint8_t>(reg), static_cast<int32_t>(*number));
  }
  std::vector<BpfInstruction> out;
  for (size_t i = 0; i < conditions.size(); ++i) {
    size_t behind = conditions.size() - i - 1 + verdict.size();
    out.push_back(JumpNotEqual(conditions[i].first, conditions[i].second, behind));
  }
  out.insert(out.end(), verdict.begin(), verdict.end());
  return out;
}

}  // namespace

Result<std::vector<BpfInstruction>> CompileDeviceRules(const std::vector<Resources::DeviceRule>& rules) {
  if (rules.size() > kMaxRules) {
    return MakeError(Code::kResourceExhausted, "{} device rules, at most {}", rules.size(), kMaxRules);
  }
  // struct bpf_cgroup_dev_ctx: access_type (access << 16 | type), major, minor.
  std::vector<BpfInstruction> program = {
      Load32(BPF_REG_2, 0),        Copy(BPF_REG_3, BPF_REG_2), Alu(BPF_RSH, BPF_REG_3, 16), Alu(BPF_AND, BPF_REG_2, 0xffff),
      Load32(BPF_REG_4, 4),        Load32(BPF_REG_5, 8),
  };
  for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule) {
    std::vector<BpfInstruction> part = TRY(CompileRule(*rule));
    program.insert(program.end(), part.begin(), part.end());
    bool all = rule->type == 'a' && rule->major.value_or(-1) < 0 && rule->minor.value_or(-1) < 0 &&
               (rule->access.empty() || rule->access.size() == 3);
    if (all) break;  // earlier rules decide nothing, and the verifier refuses unreachable ones
  }
  Return(0, &program);
  return program;
}

Result<> AttachDeviceProgram(const std::string& dir, const std::vector<BpfInstruction>& program) {
  UniqueFd group(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!group) return ErrnoError("open '{}'", dir);
  uint32_t ids[kMaxPrograms] = {};
  bpf_attr query{};
  query.query.target_fd = static_cast<uint32_t>(group.get());
  query.query.attach_type = BPF_CGROUP_DEVICE;
  query.query.prog_ids = reinterpret_cast<uint64_t>(ids);
  query.query.prog_cnt = kMaxPrograms;
  if (Bpf(BPF_PROG_QUERY, &query) != 0) return ErrnoError("ask for the device programs of '{}'", dir);

  UniqueFd loaded = TRY(LoadBpf(BPF_PROG_TYPE_CGROUP_DEVICE, 0, program, "device"));
  bpf_attr attach{};
  attach.target_fd = static_cast<uint32_t>(group.get());
  attach.attach_bpf_fd = static_cast<uint32_t>(loaded.get());
  attach.attach_type = BPF_CGROUP_DEVICE;
  attach.attach_flags = BPF_F_ALLOW_MULTI;
  if (Bpf(BPF_PROG_ATTACH, &attach) != 0) return ErrnoError("attach the device program to '{}'", dir);

  for (uint32_t i = 0; i < query.query.prog_cnt && i < kMaxPrograms; ++i) {
    bpf_attr by_id{};
    by_id.prog_id = ids[i];
    UniqueFd old(Bpf(BPF_PROG_GET_FD_BY_ID, &by_id));
    if (!old) {
      if (errno == ENOENT) continue;
      return ErrnoError("open device program {} of '{}'", ids[i], dir);
    }
    bpf_attr detach{};
    detach.target_fd = static_cast<uint32_t>(group.get());
    detach.attach_bpf_fd = static_cast<uint32_t>(old.get());
    detach.attach_type = BPF_CGROUP_DEVICE;
    if (Bpf(BPF_PROG_DETACH, &detach) != 0 && errno != ENOENT) {
      return ErrnoError("detach device program {} from '{}'", ids[i], dir);
    }
  }
  return {};
}

}  // namespace caisson::oci

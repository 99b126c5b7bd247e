// SPDX-License-Identifier: Apache-2.0
#include "sys/call_filter.h"

#include <linux/audit.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>

namespace caisson::sys {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#endif

sock_filter Load(size_t at) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(at)); }

}  // namespace

// Both architectures are little-endian.
sock_filter LoadArgument(int index) { return Load(offsetof(seccomp_data, args) + static_cast<size_t>(index) * sizeof(uint64_t)); }
sock_filter ReturnAction(uint32_t action) { return BPF_STMT(BPF_RET | BPF_K, action); }
sock_filter SkipUnless(uint32_t value, uint8_t count) { return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, count); }

CallFilter::CallFilter()
    : program_{Load(offsetof(seccomp_data, arch)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0), ReturnAction(SECCOMP_RET_KILL_PROCESS),
               Load(offsetof(seccomp_data, nr))} {}

void CallFilter::Allow(std::span<const unsigned> calls) {
  for (unsigned call : calls) Add({SkipUnless(call, 1), ReturnAction(SECCOMP_RET_ALLOW)});
}

void CallFilter::AllowWith(unsigned call, int index, uint32_t value) {
  Add({SkipUnless(call, 4), LoadArgument(index), SkipUnless(value, 1), ReturnAction(SECCOMP_RET_ALLOW), ReturnAction(kRefuseCall)});
}

Result<> CallFilter::Install() {
  Add({ReturnAction(kRefuseCall)});
  sock_fprog filter{static_cast<unsigned short>(program_.size()), program_.data()};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) != 0) return ErrnoError("set the system call filter");
  return {};
}

}  // namespace caisson::sys

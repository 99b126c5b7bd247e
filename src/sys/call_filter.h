// SPDX-License-Identifier: Apache-2.0
//
// CallFilter: the system calls that a process of ours allows itself (seccomp(2)): those named, all others fail with EPERM. A call of
// another architecture ends the process. Plain value; any thread.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "base/result.h"

namespace caisson::sys {

class CallFilter {
 public:
  CallFilter();

  void Allow(std::span<const unsigned> calls);
  // `call` is allowed where the lower half of its argument `index` is `value`. Once for a call.
  void AllowWith(unsigned call, int index, uint32_t value);
  // Instructions that may end with an answer or go on to the next; the call's number is loaded, before and after.
  void Add(std::initializer_list<sock_filter> instructions) { program_.insert(program_.end(), instructions); }

  // For this process and all that it starts, for good. It has no_new_privs or CAP_SYS_ADMIN. Errors: what seccomp(2) says.
  Result<> Install();

 private:
  std::vector<sock_filter> program_;
};

// The parts of such instructions.
sock_filter LoadArgument(int index);  // its lower half
sock_filter ReturnAction(uint32_t action);
sock_filter SkipUnless(uint32_t value, uint8_t count);
inline constexpr uint32_t kRefuseCall = SECCOMP_RET_ERRNO | 1;  // EPERM

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
//
// What files of /proc say, taken apart. All of it is text of the kernel's; what it does not hold is absent, not an error.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace caisson::sys {

// The fields of a /proc/PID/stat from the third on: [0] is the state, [1] the parent (proc_pid_stat(5) counts from 1). The
// second may hold anything, spaces and parentheses too, so what follows the last ") " counts. Empty: `stat` has no such field.
// Views into `stat`.
std::vector<std::string_view> StatFields(std::string_view stat);

// The first number in the line of `text` that begins with `key` ("VmRSS:", "oom_kill "), as in /proc/PID/status, /proc/meminfo and
// /proc/vmstat. 0: there is none. The unit is the file's own.
uint64_t ProcNumber(std::string_view text, std::string_view key);

}  // namespace caisson::sys

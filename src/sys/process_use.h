// SPDX-License-Identifier: Apache-2.0
//
// ProcessUse: what a process takes of the host, of proc(5).
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace caisson::sys {

struct ProcessUse {
  uint64_t cpu_nanos = 0;  // of all its threads, also those that have ended
  uint64_t threads = 0;
  uint64_t resident_bytes = 0;
  uint64_t proportional_bytes = 0;  // PSS: what several processes share is counted once among them
};

// Walks the page tables of the process: some milliseconds for one of gigabytes. Errors: it has ended; it is not ours to look at.
Result<ProcessUse> ReadProcessUse(int pid);
// Of the texts of /proc/PID/stat and /proc/PID/smaps_rollup. kInvalidArgument. Pure.
Result<ProcessUse> ParseProcessUse(std::string_view stat, std::string_view rollup);

}  // namespace caisson::sys

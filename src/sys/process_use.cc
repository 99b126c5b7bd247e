// SPDX-License-Identifier: Apache-2.0
#include "sys/process_use.h"

#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "base/bad.h"
#include "base/clock.h"
#include "base/strings.h"
#include "sys/path.h"
#include "sys/proc_text.h"

namespace caisson::sys {

Result<ProcessUse> ParseProcessUse(std::string_view stat, std::string_view rollup) {
  constexpr size_t kUtime = 14 - 3, kStime = 15 - 3, kThreads = 20 - 3;
  std::vector<std::string_view> fields = StatFields(stat);
  if (fields.empty()) return Bad("a process's stat has no name in it");
  if (fields.size() <= kThreads) return Bad("a process's stat has {} fields", fields.size() + 2);
  ProcessUse use;
  uint64_t ticks = TRY(ParseUint64(fields[kUtime])) + TRY(ParseUint64(fields[kStime]));
  use.cpu_nanos = ticks * (static_cast<uint64_t>(kNanosPerSecond) / static_cast<uint64_t>(sysconf(_SC_CLK_TCK)));
  use.threads = TRY(ParseUint64(fields[kThreads]));
  for (std::string_view line : Split(rollup, '\n')) {
    for (auto [name, value] : {std::pair{"Rss:", &use.resident_bytes}, {"Pss:", &use.proportional_bytes}}) {
      if (!line.starts_with(name)) continue;
      std::string_view number = Trim(line.substr(4));
      *value = TRY(ParseUint64(number.substr(0, number.find(' ')))) << 10;
    }
  }
  return use;
}

Result<ProcessUse> ReadProcessUse(int pid) {
  constexpr size_t kStatBytes = 4096, kRollupBytes = 16 << 10;
  std::string stat = TRY(ReadFile(fmt::format("/proc/{}/stat", pid), kStatBytes));
  std::string rollup = TRY(ReadFile(fmt::format("/proc/{}/smaps_rollup", pid), kRollupBytes));
  return ParseProcessUse(stat, rollup);
}

}  // namespace caisson::sys

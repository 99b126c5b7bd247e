// SPDX-License-Identifier: Apache-2.0
#include "shim/vm_end.h"

#include <gmock/gmock.h>

namespace caisson::shim {
namespace {

using testing::HasSubstr;

constexpr char kKilled[] = "QEMU was killed by signal 9 (Killed)", kReset[] = "QEMU exited with status 0: the guest's kernel panicked or restarted";

TEST(VmEnd, IsExplained) {
  EXPECT_EQ(ExplainVmEnd(kKilled, 0, "").reason, "VmmKilled");
  EXPECT_EQ(ExplainVmEnd(kKilled, 1, "").reason, "VmOutOfMemory");
  EXPECT_EQ(ExplainVmEnd(kReset, 0, "Kernel panic - not syncing: sysrq triggered crash").reason, "GuestPanic");
  EXPECT_EQ(ExplainVmEnd(kReset, 0, "msg=the machine ends: the agent was killed by signal 9 (Killed)").reason, "AgentDied");
  EXPECT_EQ(ExplainVmEnd("QEMU exited with status 1: cannot go on", 0, "").reason, "VmEnded");
  // What the host's kernel has killed besides is not why the guest panicked.
  EXPECT_EQ(ExplainVmEnd(kReset, 1, "Kernel panic").reason, "GuestPanic");
}

TEST(VmEnd, AGuestCannotBlameTheHost) {
  EXPECT_EQ(ExplainVmEnd(kReset, 0, "QEMU was killed by signal 9").reason, "VmEnded");
  EXPECT_EQ(ExplainVmEnd(kKilled, 0, "Kernel panic").reason, "VmmKilled");
}

TEST(VmEnd, TheMessageHasTheStatusAndTheConsole) {
  auto end = ExplainVmEnd(kReset, 0, "Kernel panic - not syncing: x");
  EXPECT_THAT(end.message, HasSubstr("exited with status 0"));
  EXPECT_THAT(end.message, HasSubstr("not syncing: x"));
  EXPECT_FALSE(VmEnd().happened());
  // The word that matters may be far from the end.
  end = ExplainVmEnd(kReset, 0, "Kernel panic - not syncing: deep\n" + std::string(5000, 't'));
  EXPECT_EQ(end.reason, "GuestPanic");
  EXPECT_THAT(end.message, HasSubstr("panicked - not syncing: deep ("));
  EXPECT_LT(end.message.size(), 1000u);
  EXPECT_THAT(ExplainVmEnd(kReset, 0, "msg=\"the machine ends: the agent was killed by signal 9 (Killed)\\n").message,
              HasSubstr("PID 1 says: the agent was killed by signal 9 (Killed) (QEMU"));
}

}  // namespace
}  // namespace caisson::shim

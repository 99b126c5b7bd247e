// SPDX-License-Identifier: Apache-2.0
#include "vmm/accelerator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/clock.h"

namespace caisson::vmm {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

bool NoChildren() { return waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD; }

// Whatever this host has: an answer with a reason, in time, and no process left.
TEST(Accelerator, IsProbed) {
  int64_t begin = MonotonicNanos();
  AcceleratorProbe probe = ProbeAccelerator();
  std::cout << AcceleratorName(probe.accelerator) << ": " << probe.reason << ", after " << (MonotonicNanos() - begin) / kNanosPerMilli << " ms\n";
  EXPECT_FALSE(probe.reason.empty());
  EXPECT_TRUE(NoChildren());
  // A host whose KVM makes virtual machines can run the guest, at whatever speed.
  if (access("/dev/kvm", R_OK | W_OK) == 0) {
    EXPECT_THAT(probe.reason, AnyOf(HasSubstr("per second"), HasSubstr("too slow"), HasSubstr(": open: "), HasSubstr(": make a VM: ")));
  }
}

TEST(Accelerator, WhatIsNotKvmIsNotUsed) {
  AcceleratorProbe probe = ProbeAccelerator("/dev/no-such-device");
  EXPECT_EQ(probe.accelerator, Accelerator::kTcg);
  EXPECT_THAT(probe.reason, HasSubstr("/dev/no-such-device"));
  probe = ProbeAccelerator("/dev/null");
  EXPECT_EQ(probe.accelerator, Accelerator::kTcg);
  EXPECT_THAT(probe.reason, HasSubstr("/dev/null"));
  EXPECT_TRUE(NoChildren());
}

TEST(Accelerator, TheCountersFrequencyIsSteady) {
  uint32_t first = TscKilohertz(), second = TscKilohertz();
  if (first == 0) GTEST_SKIP() << "this processor has no time stamp counter";
  EXPECT_GT(first, 100'000U);
  EXPECT_NEAR(first, second, first / 1000.0);
}

}  // namespace
}  // namespace caisson::vmm

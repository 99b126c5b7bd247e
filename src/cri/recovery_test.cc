// SPDX-License-Identifier: Apache-2.0
#include "cri/recovery.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caisson::cri {
namespace {

PodRecord Ready() {
  PodRecord record;
  record.set_state(runtime::v1::SANDBOX_READY);
  record.set_boot_id("this");
  record.set_shim_pid(17);
  record.set_netns_path("/n");
  record.mutable_network()->set_attached(true);
  return record;
}

TEST(FateOf, AReadyPodOfThisBootIsAttachedAgain) { EXPECT_EQ(FateOf(Ready(), "this"), PodFate::kReattach); }

TEST(FateOf, APodThatWasBeingStoppedStillHasACompanion) {
  PodRecord record = Ready();
  record.set_state(runtime::v1::SANDBOX_NOTREADY);
  EXPECT_EQ(FateOf(record, "this"), PodFate::kReattach);
}

TEST(FateOf, AStoppedPodIsLeftAlone) {
  PodRecord record;
  record.set_state(runtime::v1::SANDBOX_NOTREADY);
  record.set_boot_id("this");
  EXPECT_EQ(FateOf(record, "this"), PodFate::kNothing);
  EXPECT_EQ(FateOf(record, "other"), PodFate::kNothing);
}

TEST(FateOf, AfterARebootNothingRunsAndTheAddressIsGivenBack) {
  EXPECT_EQ(FateOf(Ready(), "other"), PodFate::kRebooted);
  PodRecord stopped = Ready();
  stopped.set_state(runtime::v1::SANDBOX_NOTREADY);
  stopped.set_shim_pid(0);
  EXPECT_EQ(FateOf(stopped, "other"), PodFate::kRebooted);
}

}  // namespace
}  // namespace caisson::cri

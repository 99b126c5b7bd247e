// SPDX-License-Identifier: Apache-2.0
#include "shim/call_counts.h"

#include <gtest/gtest.h>

namespace caisson::shim {
namespace {

TEST(CallCounts, ByMethodWithFailures) {
  CallCounts counts;
  auto first = counts.Begin("containerd.task.v3.Task", "Create");
  auto second = counts.Begin("containerd.task.v2.Task", "Create");  // under way at the same time
  CallCounts::End(first, true);
  CallCounts::End(second, false);
  CallCounts::End(counts.Begin("caisson.guest.v1.Guest", "Metrics"), true);
  counts.Begin("caisson.guest.v1.Guest", "Hello");  // never answered
  pod::v1::VmMetricsResponse response;
  counts.Fill(&response);
  ASSERT_EQ(response.calls_size(), 2);
  EXPECT_EQ(response.calls(0).method(), "Guest.Metrics");
  EXPECT_EQ(response.calls(0).failures(), 0u);
  EXPECT_EQ(response.calls(1).method(), "Task.Create");
  EXPECT_EQ(response.calls(1).count(), 2u);
  EXPECT_EQ(response.calls(1).failures(), 1u);
  EXPECT_GT(response.calls(1).nanos(), 0u);
}

TEST(CallCounts, NotWhatWaitsForAProcess) {
  CallCounts counts;
  CallCounts::End(counts.Begin("containerd.task.v3.Task", "Wait"), true);
  CallCounts::End(counts.Begin("caisson.pod.v1.Pod", "ReadOutput"), true);
  pod::v1::VmMetricsResponse response;
  counts.Fill(&response);
  EXPECT_EQ(response.calls_size(), 0);
}

}  // namespace
}  // namespace caisson::shim

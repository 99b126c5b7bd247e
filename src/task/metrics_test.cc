// SPDX-License-Identifier: Apache-2.0
#include "task/metrics.h"

#include <gtest/gtest.h>

#include "containerd/cgroups_v1.pb.h"
#include "containerd/cgroups_v2.pb.h"

namespace caisson::task {
namespace {

// Clients look into all of these without a question (CRI-O's runtime_vm): a message that is missing ends them.
TEST(Metrics, OfNothingHaveAllTheirParts) {
  wkt::Any any;
  FillMetrics({}, false, &any);
  io::containerd::cgroups::v1::Metrics v1;
  ASSERT_TRUE(v1.ParseFromString(any.value()));
  EXPECT_TRUE(v1.has_cpu() && v1.cpu().has_usage() && v1.cpu().has_throttling() && v1.has_pids());
  const auto& memory = v1.memory();
  EXPECT_TRUE(memory.has_usage() && memory.has_swap() && memory.has_kernel() && memory.has_kernel_tcp());
  io::containerd::cgroups::v2::Metrics v2;
  FillMetrics({}, true, &any);
  ASSERT_TRUE(v2.ParseFromString(any.value()));
  EXPECT_TRUE(v2.has_cpu() && v2.has_memory() && v2.has_pids());
}

}  // namespace
}  // namespace caisson::task

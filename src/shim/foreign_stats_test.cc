// SPDX-License-Identifier: Apache-2.0
#include "shim/foreign_stats.h"

#include <gtest/gtest.h>

#include "containerd/cgroups_v1.pb.h"
#include "containerd/cgroups_v2.pb.h"

namespace caisson::shim {
namespace {

template <class Metrics>
wkt::Any AnyOf(const Metrics& metrics) {
  wkt::Any any;
  any.set_type_url(metrics.GetTypeName());
  any.set_value(metrics.SerializeAsString());
  return any;
}

TEST(ForeignStats, OfVersion1) {
  io::containerd::cgroups::v1::Metrics metrics;
  metrics.mutable_cpu()->mutable_usage()->set_total(5000);
  metrics.mutable_cpu()->mutable_usage()->set_user(3000);
  auto* memory = metrics.mutable_memory();
  memory->mutable_usage()->set_usage(1000);
  memory->mutable_usage()->set_limit(0x7ffffffffffff000);
  memory->set_total_inactive_file(300);
  memory->set_total_rss(400);
  memory->mutable_swap()->set_usage(1100);
  memory->mutable_swap()->set_limit(0x7ffffffffffff000);
  metrics.mutable_pids()->set_current(3);
  auto* io = metrics.mutable_blkio()->add_io_service_bytes_recursive();
  io->set_op("Read");
  io->set_major(8);
  io->set_value(77);
  auto stats = StatsOfMetrics(AnyOf(metrics), true);
  ASSERT_TRUE(stats) << stats.error().message;
  EXPECT_EQ(stats->cpu_usage_nanos(), 5000u);
  EXPECT_EQ(stats->memory_usage_bytes(), 1000u);
  EXPECT_EQ(stats->memory_working_set_bytes(), 700u);
  EXPECT_EQ(stats->memory_rss_bytes(), 400u);
  EXPECT_EQ(stats->memory_limit_bytes(), 0u);
  EXPECT_EQ(stats->swap_usage_bytes(), 100u);
  EXPECT_EQ(stats->swap_limit_bytes(), 0u);
  EXPECT_EQ(stats->pids(), 3u);
  EXPECT_EQ(stats->detail().cpu_user_nanos(), 3000u);
  ASSERT_EQ(stats->detail().devices_size(), 1);
  EXPECT_EQ(stats->detail().devices(0).read_bytes(), 77u);
  EXPECT_FALSE(StatsOfMetrics(AnyOf(metrics), false)->has_detail());
}

TEST(ForeignStats, OfVersion2) {
  io::containerd::cgroups::v2::Metrics metrics;
  metrics.mutable_cpu()->set_usage_usec(5);
  metrics.mutable_memory()->set_usage(1000);
  metrics.mutable_memory()->set_inactive_file(2000);  // read at another moment
  metrics.mutable_memory()->set_usage_limit(1 << 20);
  auto stats = StatsOfMetrics(AnyOf(metrics), false);
  ASSERT_TRUE(stats) << stats.error().message;
  EXPECT_EQ(stats->cpu_usage_nanos(), 5000u);
  EXPECT_EQ(stats->memory_working_set_bytes(), 0u);
  EXPECT_EQ(stats->memory_limit_bytes(), 1u << 20);
}

TEST(ForeignStats, OfNothingKnown) {
  wkt::Any any;
  EXPECT_EQ(StatsOfMetrics(any, false).error().code, Code::kUnimplemented);
  any.set_type_url("io.containerd.cgroups.v2.Metrics");
  any.set_value("\xff\xff");
  EXPECT_EQ(StatsOfMetrics(any, false).error().code, Code::kInternal);
}

}  // namespace
}  // namespace caisson::shim

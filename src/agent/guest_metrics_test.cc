// SPDX-License-Identifier: Apache-2.0
#include "agent/guest_metrics.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace caisson::agent {
namespace {

TEST(GuestMetrics, OfTheTextsOfProc) {
  ProcTexts texts;
  texts.meminfo = "MemTotal:         480000 kB\nMemFree:          300000 kB\nMemAvailable:     400000 kB\n";
  texts.stat = "cpu  100 20 30 4000 5 6 7 80 0 0\ncpu0 100 20 30 4000 5 6 7 80 0 0\nintr 1\n";
  texts.loadavg = "0.20 1.08 12.00 2/80 11206\n";
  texts.vmstat = "balloon_inflate 300\nballoon_deflate 100\nballoon_migrate 5\n";
  texts.status = "Name:\tcaisson-agent\nVmRSS:\t    1600 kB\n";
  guest::v1::MetricsResponse response;
  FillGuestMetrics(texts, &response);
  EXPECT_EQ(response.memory_total_bytes(), 480000u << 10);
  EXPECT_EQ(response.memory_available_bytes(), 400000u << 10);
  EXPECT_EQ(response.agent_resident_bytes(), 1600u << 10);
  EXPECT_EQ(response.balloon_bytes(), 200u * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)));
  EXPECT_EQ(response.user_nanos(), 1'200'000'000u);
  EXPECT_EQ(response.system_nanos(), 300'000'000u);
  EXPECT_EQ(response.idle_nanos(), 40'000'000'000u);
  EXPECT_EQ(response.iowait_nanos(), 50'000'000u);
  EXPECT_EQ(response.irq_nanos(), 130'000'000u);
  EXPECT_EQ(response.steal_nanos(), 800'000'000u);
  EXPECT_EQ(response.load1(), 20u);
  EXPECT_EQ(response.load5(), 108u);
  EXPECT_EQ(response.load15(), 1200u);
  EXPECT_EQ(response.runnable(), 2u);
  EXPECT_EQ(response.threads(), 80u);
}

TEST(GuestMetrics, WhatIsNotThereIsZero) {
  guest::v1::MetricsResponse response;
  FillGuestMetrics({"MemTotal:", "cpu", "0.2 x 1.0", "balloon_deflate 3\n", ""}, &response);
  EXPECT_EQ(response.SerializeAsString(), guest::v1::MetricsResponse().SerializeAsString());
}

TEST(GuestMetrics, OfThisMachine) {
  auto metrics = ReadGuestMetrics();
  ASSERT_TRUE(metrics) << metrics.error().message;
  EXPECT_GT(metrics->memory_total_bytes(), metrics->memory_available_bytes());
  EXPECT_GT(metrics->agent_resident_bytes(), 0u);
  EXPECT_GT(metrics->idle_nanos(), 0u);
  EXPECT_GT(metrics->threads(), 0u);
}

}  // namespace
}  // namespace caisson::agent

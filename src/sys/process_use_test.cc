// SPDX-License-Identifier: Apache-2.0
#include "sys/process_use.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

namespace caisson::sys {
namespace {

constexpr char kStat[] = "7 (a ) b) S 1 7 7 0 -1 0 0 0 0 0 120 30 0 0 20 0 4 0 99 1000 2000 0\n";
constexpr char kRollup[] = "00400000-7fff0000 ---p 00000000 00:00 0  [rollup]\nRss:            2048 kB\nPss:            1024 kB\nPss_Anon:        512 kB\n";

TEST(ProcessUse, FieldsAfterANameWithParentheses) {
  auto use = ParseProcessUse(kStat, kRollup);
  ASSERT_TRUE(use) << use.error().message;
  EXPECT_EQ(use->cpu_nanos, 150 * (1'000'000'000ull / static_cast<uint64_t>(sysconf(_SC_CLK_TCK))));
  EXPECT_EQ(use->threads, 4u);
  EXPECT_EQ(use->resident_bytes, 2048u << 10);
  EXPECT_EQ(use->proportional_bytes, 1024u << 10);
}

TEST(ProcessUse, WhatIsNoStatIsRefused) {
  for (const char* stat : {"", "7 (a", "7 (a) S 1 7", "7 (a) S 1 7 7 0 -1 0 0 0 0 0 x 30 0 0 20 0 4 0"}) {
    EXPECT_FALSE(ParseProcessUse(stat, kRollup)) << stat;
  }
  EXPECT_FALSE(ParseProcessUse(kStat, "Rss: many kB\n"));
}

TEST(ProcessUse, OfThisProcess) {
  auto use = ReadProcessUse(getpid());
  ASSERT_TRUE(use) << use.error().message;
  EXPECT_GE(use->threads, 1u);
  EXPECT_GT(use->resident_bytes, 0u);
  EXPECT_LE(use->proportional_bytes, use->resident_bytes);
  EXPECT_FALSE(ReadProcessUse(0));
}

}  // namespace
}  // namespace caisson::sys

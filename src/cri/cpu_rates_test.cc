// SPDX-License-Identifier: Apache-2.0
#include "cri/cpu_rates.h"

#include <gtest/gtest.h>

namespace caisson::cri {
namespace {

constexpr int64_t kSecond = 1'000'000'000, kStart = 1000 * kSecond;

TEST(CpuRates, FirstSampleHasNoRate) {
  CpuRates rates;
  EXPECT_EQ(rates.Sample("a", kStart, 5), std::nullopt);
  EXPECT_EQ(rates.Sample("b", kStart + kSecond, 5), std::nullopt);
}

TEST(CpuRates, RateOfTheTimeBetween) {
  CpuRates rates;
  rates.Sample("a", kStart, 100);
  EXPECT_EQ(rates.Sample("a", kStart + 2 * kSecond, 100 + kSecond), 500'000'000u);
  EXPECT_EQ(rates.Sample("a", kStart + 4 * kSecond, 100 + 9 * kSecond), 4'000'000'000u);
}

TEST(CpuRates, SamplesTooCloseRepeatTheRate) {
  CpuRates rates;
  rates.Sample("a", kStart, 0);
  EXPECT_EQ(rates.Sample("a", kStart + 1, kSecond), std::nullopt);
  EXPECT_EQ(rates.Sample("a", kStart + kSecond, kSecond / 4), 250'000'000u);
  EXPECT_EQ(rates.Sample("a", kStart + kSecond + 1, kSecond), 250'000'000u);
  // The base has not moved.
  EXPECT_EQ(rates.Sample("a", kStart + 2 * kSecond, kSecond / 4 + kSecond), 1'000'000'000u);
}

TEST(CpuRates, AShortTimeDoesForTheFirstRate) {
  CpuRates rates;
  rates.Sample("a", kStart, 0);
  EXPECT_EQ(rates.Sample("a", kStart + kSecond / 2, kSecond / 4), 500'000'000u);
}

TEST(CpuRates, LateSamplesChangeNothing) {
  CpuRates rates;
  rates.Sample("a", kStart, kSecond);
  EXPECT_EQ(rates.Sample("a", kStart + kSecond, 2 * kSecond), 1'000'000'000u);
  EXPECT_EQ(rates.Sample("a", kStart, kSecond), 1'000'000'000u);
  EXPECT_EQ(rates.Sample("a", kStart + 3 * kSecond, 0), 1'000'000'000u);
  EXPECT_EQ(rates.Sample("a", kStart + 2 * kSecond, 2 * kSecond), 0u);
}

TEST(CpuRates, AClockThatIsSetBackBeginsAnew) {
  CpuRates rates;
  rates.Sample("a", kStart, kSecond);
  EXPECT_EQ(rates.Sample("a", kStart + kSecond, 2 * kSecond), 1'000'000'000u);
  EXPECT_EQ(rates.Sample("a", kStart - 3600 * kSecond, 2 * kSecond), std::nullopt);
  EXPECT_EQ(rates.Sample("a", kStart - 3598 * kSecond, 3 * kSecond), 500'000'000u);
}

TEST(CpuRates, WhatWasLongAgoIsNotLately) {
  CpuRates rates;
  rates.Sample("a", kStart, 0);
  EXPECT_EQ(rates.Sample("a", kStart + 3600 * kSecond, 3600 * kSecond), std::nullopt);
  EXPECT_EQ(rates.Sample("a", kStart + 3602 * kSecond, 3601 * kSecond), 500'000'000u);
}

TEST(CpuRates, OldContainersAreForgotten) {
  CpuRates rates;
  rates.Sample("a", kStart, 0);
  rates.Sample("b", kStart + 601 * kSecond, 0);
  EXPECT_EQ(rates.Sample("a", kStart + 602 * kSecond, kSecond), std::nullopt);
}

}  // namespace
}  // namespace caisson::cri

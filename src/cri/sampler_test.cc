// SPDX-License-Identifier: Apache-2.0
#include "cri/sampler.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "base/clock.h"

namespace caisson::cri {
namespace {

constexpr int64_t kSecond = kNanosPerSecond;

class SamplerTest : public testing::Test {
 protected:
  StatsSample Read() {
    StatsSample sample;
    sample.at_nanos = ++reads_;
    return sample;
  }
  // Which reading the answer is of.
  int64_t Asked() { return sampler_.Get(Ask::kUsage)->at_nanos; }

  int64_t now_ = 1000 * kSecond;
  int reads_ = 0;
  Sampler sampler_{5, [this](Ask) { return Read(); }, [this] { return now_; }};
};

TEST_F(SamplerTest, NobodyAsksNobodyReads) {
  EXPECT_EQ(sampler_.TakeDue(), -1);
  EXPECT_EQ(reads_, 0);
}

TEST_F(SamplerTest, OneSampleIsGivenOutForHalfASecond) {
  EXPECT_EQ(Asked(), 1);
  now_ += kSecond / 2;
  EXPECT_EQ(Asked(), 1);
  now_ += 1;
  EXPECT_EQ(Asked(), 2);  // who asks twice compares
}

TEST_F(SamplerTest, TakenAheadOfTheQuestion) {
  EXPECT_EQ(Asked(), 1);
  EXPECT_EQ(sampler_.TakeDue(), 5 * kSecond);
  now_ += 5 * kSecond;
  EXPECT_EQ(sampler_.TakeDue(), 5 * kSecond);
  EXPECT_EQ(reads_, 2);
  now_ += 4 * kSecond;
  EXPECT_EQ(Asked(), 2);
  now_ += kSecond;
  EXPECT_EQ(Asked(), 3);  // the second was given out a second ago
}

TEST_F(SamplerTest, TooOldIsNotGivenOut) {
  EXPECT_EQ(Asked(), 1);
  now_ += 5 * kSecond;
  sampler_.TakeDue();
  now_ += 6 * kSecond + 1;  // the thread was kept from its work
  EXPECT_EQ(Asked(), 3);
}

TEST_F(SamplerTest, EachKindByItself) {
  EXPECT_EQ(Asked(), 1);
  EXPECT_EQ(sampler_.Get(Ask::kPods)->at_nanos, 2);
  now_ += 5 * kSecond;
  sampler_.TakeDue();
  EXPECT_EQ(reads_, 4);  // nobody has asked for the third
}

TEST_F(SamplerTest, RestsWhenNobodyAsksForAMinute) {
  EXPECT_EQ(Asked(), 1);
  now_ += 60 * kSecond;
  EXPECT_GT(sampler_.TakeDue(), 0);
  now_ += 1;
  EXPECT_EQ(sampler_.TakeDue(), -1);
  EXPECT_EQ(reads_, 2);
  EXPECT_EQ(Asked(), 3);
}

TEST_F(SamplerTest, WhatHasChangedIsReadAgain) {
  EXPECT_EQ(Asked(), 1);
  sampler_.Outdate();
  EXPECT_EQ(Asked(), 2);
}

TEST(Sampler, AChangeWhileItIsReadCounts) {
  int reads = 0;
  Sampler* itself = nullptr;
  Sampler sampler(5, [&](Ask) {
    if (++reads == 1) itself->Outdate();
    return StatsSample{};
  }, [] { return kSecond; });
  itself = &sampler;
  sampler.Get(Ask::kUsage);
  sampler.Get(Ask::kUsage);
  EXPECT_EQ(reads, 2);
  sampler.Get(Ask::kUsage);
  EXPECT_EQ(reads, 2);
}

TEST(Sampler, SeveralWhoAskAtOnceWaitForOne) {
  std::promise<void> begun, go;
  std::atomic<int> reads = 0;
  Sampler sampler(5, [&](Ask) {
    ++reads;
    begun.set_value();
    go.get_future().wait();
    return StatsSample{};
  }, [] { return kSecond; });
  auto first = std::async(std::launch::async, [&] { return sampler.Get(Ask::kUsage); });
  begun.get_future().wait();
  auto second = std::async(std::launch::async, [&] { return sampler.Get(Ask::kUsage); });
  go.set_value();
  EXPECT_EQ(first.get(), second.get());
  EXPECT_EQ(reads, 1);
}

TEST(Sampler, WithoutAnIntervalEachQuestionIsRead) {
  int reads = 0;
  Sampler sampler(0, [&](Ask) {
    ++reads;
    return StatsSample{};
  }, [] { return kSecond; });
  sampler.Get(Ask::kUsage);
  sampler.Get(Ask::kUsage);
  EXPECT_EQ(reads, 2);
}

TEST(Sampler, ItsThreadTakesThemAhead) {
  std::promise<void> second;
  std::atomic<int> reads = 0;
  Sampler sampler(1, [&](Ask) {
    if (++reads == 2) second.set_value();
    return StatsSample{};
  });
  sampler.Get(Ask::kDetail);
  second.get_future().wait();
}

}  // namespace
}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "cri/writable_layers.h"

#include <gtest/gtest.h>

#include <future>

#include "base/clock.h"

namespace caisson::cri {
namespace {

// Measures at once on the caller's thread, unless `later`; time stands still unless told.
struct Fixture {
  int64_t now = 1000 * kNanosPerSecond, cost = 0;
  int measured = 0;
  bool later = false;
  std::vector<std::function<void()>> waiting;
  Result<image::Usage> usage = image::Usage{100, 2};
  WritableLayers layers{[this](const std::string&) {
                          ++measured;
                          now += cost;
                          return usage;
                        },
                        [this](std::function<void()> work) {
                          if (later) {
                            waiting.push_back(std::move(work));
                          } else {
                            work();
                          }
                        },
                        [this] { return now; }};

  uint64_t Bytes(const std::string& key) {
    auto known = layers.Get({key}, 0);
    return known.contains(key) ? known[key].usage.bytes : 0;
  }
};

TEST(WritableLayers, MeasuresOnceWhileFresh) {
  Fixture f;
  EXPECT_EQ(f.Bytes("a"), 100u);
  f.usage = image::Usage{200, 2};
  EXPECT_EQ(f.Bytes("a"), 100u);
  EXPECT_EQ(f.measured, 1);
  f.now += 3 * kNanosPerSecond;
  EXPECT_EQ(f.Bytes("a"), 200u);
  EXPECT_EQ(f.measured, 2);
}

TEST(WritableLayers, WhatIsExpensiveIsMeasuredRarely) {
  Fixture f;
  f.cost = kNanosPerSecond / 2;
  f.Bytes("a");
  f.now += 20 * kNanosPerSecond;
  f.Bytes("a");
  EXPECT_EQ(f.measured, 1);
  f.now += 6 * kNanosPerSecond;
  f.Bytes("a");
  EXPECT_EQ(f.measured, 2);
}

TEST(WritableLayers, AnOldFigureIsAnsweredWhileANewOneIsMade) {
  Fixture f;
  f.Bytes("a");
  f.now += 3 * kNanosPerSecond;
  f.later = true;
  f.usage = image::Usage{300, 2};
  EXPECT_EQ(f.Bytes("a"), 100u);
  EXPECT_EQ(f.Bytes("a"), 100u);
  ASSERT_EQ(f.waiting.size(), 1u);  // one worker, however often one asks
  f.waiting[0]();
  EXPECT_EQ(f.Bytes("a"), 300u);
}

TEST(WritableLayers, WaitsForTheFirstFigure) {
  Fixture f;
  f.later = true;
  EXPECT_EQ(f.Bytes("a"), 0u);  // not within no time
  ASSERT_EQ(f.waiting.size(), 1u);
  auto worker = std::async(std::launch::async, f.waiting[0]);
  EXPECT_EQ(f.layers.Get({"a"}, 60'000).at("a").usage.bytes, 100u);
  worker.get();
}

TEST(WritableLayers, FailureIsNotWaitedForAndTriedAgain) {
  Fixture f;
  f.usage = MakeError(Code::kInternal, "broken");
  EXPECT_TRUE(f.layers.Get({"a"}, 60'000).empty());
  f.usage = image::Usage{1, 1};
  f.now += 3 * kNanosPerSecond;
  EXPECT_EQ(f.Bytes("a"), 1u);
  f.usage = MakeError(Code::kInternal, "broken");
  f.now += 3 * kNanosPerSecond;
  EXPECT_EQ(f.Bytes("a"), 1u);  // the last one known
}

TEST(WritableLayers, ALayerThatHasGoneIsForgotten) {
  Fixture f;
  f.Bytes("a");
  f.now += 3 * kNanosPerSecond;
  f.usage = MakeError(Code::kNotFound, "no snapshot");
  EXPECT_EQ(f.Bytes("a"), 0u);
  EXPECT_TRUE(f.layers.Get({"a"}, 60'000).empty());
}

}  // namespace
}  // namespace caisson::cri

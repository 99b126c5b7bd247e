// SPDX-License-Identifier: Apache-2.0
#include "shim/guest_clock.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstdlib>
#include <ctime>
#include <vector>

#include "base/clock.h"
#include "base/scope_exit.h"
#include "caisson/guest/v1/guest.pb.h"
#include "ttrpc/server.h"

namespace caisson::shim {
namespace {

using guest::v1::SetTimeRequest;
using guest::v1::SetTimeResponse;

constexpr auto kNobody = [] { ADD_FAILURE() << "it was taken as silent"; };
constexpr int64_t kHour = 3600 * kNanosPerSecond, kRarely = 1'000'000'000;

// An agent whose clock is `behind` the host's and goes where it is told.
class GuestClockTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::move(*sys::EventLoop::Create());
    agent_ = ttrpc::Server::Create(loop_.get());
    agent_->HandleTyped<SetTimeRequest, SetTimeResponse>("caisson.guest.v1.Guest", "SetTime", [this](const auto& request, auto respond) {
      EXPECT_TRUE(request.relative());
      if (silent) return kept_.push_back(respond), loop_->Stop();
      SetTimeResponse response;
      response.set_now_nanos(lies ? *lies : NowNanos() - behind);
      if (!lies) behind -= request.adjust_nanos();
      request.adjust_nanos() != 0 ? ++adjusted : ++asked;
      if (adjusted == stop_adjusted || asked == stop_asked) loop_->Stop();
      respond(std::move(response));
    });
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    ASSERT_TRUE(agent_->Serve(UniqueFd(ends[0])));
    client_.Connect(*ttrpc::Client::Create(loop_.get(), UniqueFd(ends[1])));
    loop_->After(60'000, [this] { ADD_FAILURE() << "it does nothing", loop_->Stop(); });
  }

  void RunUntil(int adjustments, int questions) {
    stop_adjusted = adjustments, stop_asked = questions;
    ASSERT_TRUE(loop_->Run());
  }

  int64_t behind = 0;
  int adjusted = 0, asked = 0, stop_adjusted = -1, stop_asked = -1;
  bool silent = false;
  std::optional<int64_t> lies;
  std::unique_ptr<sys::EventLoop> loop_;
  std::vector<std::function<void(Result<SetTimeResponse>)>> kept_;
  std::unique_ptr<ttrpc::Server> agent_;
  GuestClient client_;
};

TEST_F(GuestClockTest, WhatIsWrongIsMadeRight) {
  for (int64_t wrong : {5 * kNanosPerSecond, -5 * kNanosPerSecond, kHour, -kHour}) {
    GuestClock clock(loop_.get(), &client_, kNobody, {.look_millis = kRarely});
    behind = wrong, adjusted = 0;
    ASSERT_TRUE(clock.Start());
    RunUntil(1, -1);
    EXPECT_LT(std::llabs(behind), 2 * kNanosPerSecond) << wrong;  // half of what the question took
  }
}

TEST_F(GuestClockTest, ItLooksAgainAndLeavesWhatIsRight) {
  GuestClock clock(loop_.get(), &client_, kNobody, {.look_millis = 1});
  ASSERT_TRUE(clock.Start());
  RunUntil(-1, 20);
  EXPECT_EQ(adjusted, 0);
  // A machine that has stood still.
  behind = kHour;
  RunUntil(1, -1);
  EXPECT_LT(std::llabs(behind), 2 * kNanosPerSecond);
  RunUntil(-1, asked + 20);
  EXPECT_EQ(adjusted, 1);
}

TEST_F(GuestClockTest, MadeUpClocksDoNoHarm) {
  GuestClock clock(loop_.get(), &client_, kNobody, {.look_millis = 1});
  for (int64_t lie : {INT64_MIN, int64_t{-1}, INT64_MAX, int64_t{0}}) {
    lies = lie;
    ASSERT_TRUE(clock.Start());
    RunUntil(-1, asked + 3);
    clock.Stop();
  }
}

TEST_F(GuestClockTest, OneQuestionAtATimeAndNoneAfterTheEnd) {
  silent = true;
  auto clock = std::make_unique<GuestClock>(loop_.get(), &client_, kNobody, GuestClock::Times{.look_millis = 1});
  ASSERT_TRUE(clock->Start());
  ASSERT_TRUE(loop_->Run());
  loop_->After(50, [this] { loop_->Stop(); });
  ASSERT_TRUE(loop_->Run());
  EXPECT_EQ(kept_.size(), 1u);
  clock.reset();
  for (auto& respond : kept_) respond(SetTimeResponse());
  loop_->After(20, [this] { loop_->Stop(); });
  ASSERT_TRUE(loop_->Run());
  EXPECT_EQ(kept_.size(), 1u);
}

TEST_F(GuestClockTest, AGuestThatAnswersNothingIsToldOfOnce) {
  silent = true;
  int told = 0;
  GuestClock clock(loop_.get(), &client_, [&] { ++told, loop_->After(50, [this] { loop_->Stop(); }); }, {.look_millis = 1, .answer_millis = 5});
  ASSERT_TRUE(clock.Start());
  while (told == 0) ASSERT_TRUE(loop_->Run());  // each question stops it too
  EXPECT_EQ(told, 1);
  EXPECT_EQ(kept_.size(), static_cast<size_t>(GuestClock::kUnanswered));
}

TEST_F(GuestClockTest, OneThatAnswersNowAndThenIsNotSilent) {
  GuestClock clock(loop_.get(), &client_, kNobody, {.look_millis = 1, .answer_millis = 5});
  ASSERT_TRUE(clock.Start());
  for (int round = 0; round < 3; ++round) {
    silent = true;
    for (int kept = 1; kept < GuestClock::kUnanswered; ++kept) ASSERT_TRUE(loop_->Run());
    silent = false;
    RunUntil(-1, asked + 2);
  }
}

// The whole machine's clock: only where it is the test's own (test/guest).
TEST_F(GuestClockTest, TheHostsClockIsSet) {
  if (getenv("CAISSON_OWN_CLOCK") == nullptr) GTEST_SKIP() << "this machine's clock is not the test's to set (CAISSON_OWN_CLOCK)";
  auto jump = [](int64_t nanos) {
    int64_t to = NowNanos() + nanos;
    timespec time{to / kNanosPerSecond, to % kNanosPerSecond};
    return clock_settime(CLOCK_REALTIME, &time) == 0;
  };
  GuestClock clock(loop_.get(), &client_, kNobody, {.look_millis = kRarely});
  ASSERT_TRUE(clock.Start());
  RunUntil(-1, 1);
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(jump(kHour));
    auto back = ScopeExit([&] { jump(-kHour); });
    behind += kHour;
    RunUntil(adjusted + 1, -1);
    EXPECT_LT(std::llabs(behind), 2 * kNanosPerSecond);
    ASSERT_TRUE(jump(-kHour));
    back.Dismiss();
    behind -= kHour;
    RunUntil(adjusted + 1, -1);
    EXPECT_LT(std::llabs(behind), 2 * kNanosPerSecond);
  }
}

}  // namespace
}  // namespace caisson::shim

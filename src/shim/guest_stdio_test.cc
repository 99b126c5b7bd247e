// SPDX-License-Identifier: Apache-2.0
//
// Output of a guest that means well, and of guests that do not: whoever waits for the end of a process hears of it, and what is taken has a bound.
#include "shim/guest_stdio.h"

#include <gtest/gtest.h>

#include <utility>

namespace caisson::shim {
namespace {

constexpr size_t kMiB = 1 << 20;
using Part = Result<GuestPipe::Part>;

class GuestOutputTest : public testing::Test {
 protected:
  void SetUp() override { loop_ = std::move(*sys::EventLoop::Create()); }

  // `answer`: what the guest says each time; with nothing it says nothing.
  std::shared_ptr<GuestOutput> Output(std::function<std::optional<Part>(bool no_wait)> answer, int64_t last_millis = 60'000) {
    GuestPipe pipe;
    pipe.read = [this, answer = std::move(answer)](bool no_wait, std::function<void(Part)> done) {
      ++asked;
      waiting_ = std::move(done);
      if (auto part = answer(no_wait)) {
        loop_->Post([this, part = std::move(*part)] {
          if (auto done = std::exchange(waiting_, nullptr)) done(part);
        });
      }
    };
    auto sink = [this](const std::string& bytes, const std::function<void()>& next) {
      taken += bytes.size();
      if (holds) return held = next, void();
      next();
    };
    return std::make_shared<GuestOutput>(loop_.get(), pipe, sink, [this] { ended = true; }, last_millis);
  }

  void ExitAndRun(GuestOutput* output) {
    loop_->Post([this, output] { output->OnExit([this] { drained = true, loop_->Stop(); }); });
    loop_->After(60'000, [this] { loop_->Stop(); });
    ASSERT_TRUE(loop_->Run());
    EXPECT_TRUE(drained);
  }

  // Some turns more.
  void Turn() {
    for (int i = 0; i < 100; ++i) {
      loop_->Post([this] { loop_->Stop(); });
      ASSERT_TRUE(loop_->Run());
    }
  }

  std::unique_ptr<sys::EventLoop> loop_;
  size_t taken = 0;
  int asked = 0;
  bool drained = false, ended = false, holds = false;
  std::function<void()> held;

 private:
  std::function<void(Part)> waiting_;
};

TEST_F(GuestOutputTest, AllThatWasWrittenComesFirst) {
  int parts = 7;
  auto output = Output([&](bool) -> std::optional<Part> { return GuestPipe::Part{parts > 0 ? std::string(512 << 10, 'x') : "", parts-- <= 0}; });
  output->Start();
  ExitAndRun(output.get());
  EXPECT_EQ(taken, 7 * (512u << 10));
  EXPECT_TRUE(ended);
}

TEST_F(GuestOutputTest, NoEndAfterTheEnd) {
  auto output = Output([](bool) -> std::optional<Part> { return GuestPipe::Part{std::string(512 << 10, 'x'), false}; });
  output->Start();
  ExitAndRun(output.get());
  EXPECT_TRUE(ended);
  EXPECT_LE(taken, 6 * kMiB);
  int before = asked;
  Turn();
  EXPECT_EQ(asked, before);
}

// Others that hold the output go on writing: the end is told, what they write is brought up to the bound.
TEST_F(GuestOutputTest, SmallPartsWithoutEnd) {
  size_t most = 0;
  auto output = Output([](bool) -> std::optional<Part> { return GuestPipe::Part{"x", false}; });
  output->Start();
  ExitAndRun(output.get());
  EXPECT_FALSE(ended);
  most = taken;
  EXPECT_LT(most, 2000u);
  Turn();
  EXPECT_GT(taken, most);
  output->Stop();
}

TEST_F(GuestOutputTest, AnAnswerThatNeverComes) {
  auto output = Output([](bool) -> std::optional<Part> { return std::nullopt; }, 20);
  output->Start();
  ExitAndRun(output.get());
  EXPECT_TRUE(ended);
  EXPECT_EQ(asked, 1);
}

// The reader's slowness is not the guest's.
TEST_F(GuestOutputTest, ASlowReaderIsWaitedFor) {
  auto output = Output([&](bool) -> std::optional<Part> { return GuestPipe::Part{asked == 1 ? "all" : "", asked > 1}; }, 1);
  holds = true;
  output->Start();
  loop_->Post([&] { output->OnExit([this] { drained = true, loop_->Stop(); }); });
  loop_->After(50, [this] { loop_->Stop(); });
  ASSERT_TRUE(loop_->Run());
  EXPECT_FALSE(drained || ended);
  loop_->Post([this] { held(); });
  loop_->After(60'000, [this] { loop_->Stop(); });
  ASSERT_TRUE(loop_->Run());
  EXPECT_TRUE(drained && ended);
}

TEST_F(GuestOutputTest, NothingAgainAndAgain) {
  auto output = Output([](bool) -> std::optional<Part> { return GuestPipe::Part{"", false}; });
  output->Start();
  Turn();
  EXPECT_TRUE(ended);
  EXPECT_LT(asked, 100);
}

}  // namespace
}  // namespace caisson::shim

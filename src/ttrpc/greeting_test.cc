// SPDX-License-Identifier: Apache-2.0
#include "ttrpc/greeting.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

namespace caisson::ttrpc {
namespace {

class GreetingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);  // as the companion and the agent do
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    client_end_ = UniqueFd(ends[0]);
    server_end_ = UniqueFd(ends[1]);
    auto loop = sys::EventLoop::Create();
    ASSERT_TRUE(loop);
    loop_ = std::move(*loop);
  }

  void Put(const UniqueFd& to, std::string_view bytes) { ASSERT_EQ(write(to.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size())); }
  std::string Take(const UniqueFd& from) {
    char buffer[4096];
    ssize_t n = read(from.get(), buffer, sizeof buffer);
    return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : "";
  }
  void Begin() {
    auto done = [this](std::optional<Result<UniqueFd>>* result) {
      return [this, result](Result<UniqueFd> stream) {
        *result = std::move(stream);
        if (client_ && server_) loop_->Stop();
      };
    };
    server_greeting_ = Greeting::AsServer(loop_.get(), std::move(server_end_), done(&server_));
    client_greeting_ = Greeting::AsClient(loop_.get(), std::move(client_end_), 20'000, done(&client_));
    ASSERT_TRUE(loop_->Run());
  }

  std::unique_ptr<sys::EventLoop> loop_;
  UniqueFd client_end_, server_end_;
  std::unique_ptr<Greeting> client_greeting_, server_greeting_;
  std::optional<Result<UniqueFd>> client_, server_;
};

TEST_F(GreetingTest, BothSidesEndAtTheFirstByteOfTheFirstFrame) {
  Begin();
  ASSERT_TRUE(*client_);
  ASSERT_TRUE(*server_);
  Put(**client_, "request");
  Put(**server_, "answer");
  EXPECT_EQ(Take(**server_), "request");
  EXPECT_EQ(Take(**client_), "answer");
}

TEST_F(GreetingTest, WhatEarlierPeersLeftInTheStreamIsDropped) {
  Put(server_end_, std::string("\0\0\1\0stale frame\nCAISSON READY 00112233445566778899aabbccddeeff\nCAISSON BEGIN 00112233445566778899aabbccddeeff\n", 108));
  Put(client_end_, "half a line CAISSON GO 00112233445566778899aabbccddeeff\nCAISSON HELLO 00112233445566778899aabbccddeeff\n" +
                       std::string(10'000, 'x') + "\nCAISSON HELLO short\n");
  Begin();
  ASSERT_TRUE(*client_) << client_->error().message;
  ASSERT_TRUE(*server_);
  Put(**server_, "answer");
  EXPECT_EQ(Take(**client_), "answer");
  EXPECT_EQ(Take(**server_), "");
}

TEST_F(GreetingTest, AServerThatDoesNotAnswerIsGivenUp) {
  std::optional<Result<UniqueFd>> result;
  auto greeting = Greeting::AsClient(loop_.get(), std::move(client_end_), 150, [&](Result<UniqueFd> stream) {
    result = std::move(stream);
    loop_->Stop();
  });
  ASSERT_TRUE(loop_->Run());
  ASSERT_FALSE(*result);
  EXPECT_EQ(result->error().code, Code::kDeadlineExceeded);
}

TEST_F(GreetingTest, ALineWithoutEndIsGivenUpToo) {
  std::optional<Result<UniqueFd>> result;
  auto greeting = Greeting::AsClient(loop_.get(), std::move(client_end_), 150, [&](Result<UniqueFd> stream) {
    result = std::move(stream);
    loop_->Stop();
  });
  const std::string part(64 << 10, 'x');
  size_t written = 0;
  ASSERT_TRUE(loop_->Watch(server_end_.get(), EPOLLOUT, [&](uint32_t) { written += static_cast<size_t>(std::max<ssize_t>(0, write(server_end_.get(), part.data(), part.size()))); }));
  ASSERT_TRUE(loop_->Run());
  loop_->Unwatch(server_end_.get());
  ASSERT_FALSE(*result);
  EXPECT_EQ(result->error().code, Code::kDeadlineExceeded);
  EXPECT_GT(written, 0u);
}

TEST_F(GreetingTest, AStreamThatEndsIsAnError) {
  std::optional<Result<UniqueFd>> result;
  server_end_.Reset();
  auto greeting = Greeting::AsClient(loop_.get(), std::move(client_end_), 10'000, [&](Result<UniqueFd> stream) {
    result = std::move(stream);
    loop_->Stop();
  });
  ASSERT_TRUE(loop_->Run());
  EXPECT_EQ(result->error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace caisson::ttrpc

// SPDX-License-Identifier: Apache-2.0
#include "sys/event_loop.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <thread>

#include <gtest/gtest.h>

#include "base/unique_fd.h"

namespace caisson::sys {
namespace {

struct Pipe {
  Pipe() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    reader = UniqueFd(ends[0]);
    writer = UniqueFd(ends[1]);
  }
  UniqueFd reader, writer;
};

TEST(EventLoop, ReadsPostsAndStops) {
  auto loop = EventLoop::Create().value();
  Pipe pipe;
  std::string order;
  ASSERT_TRUE(loop->Watch(pipe.reader.get(), EPOLLIN, [&](uint32_t events) {
    EXPECT_TRUE(events & EPOLLIN);
    char c;
    ASSERT_EQ(read(pipe.reader.get(), &c, 1), 1);
    order += c;
    loop->Unwatch(pipe.reader.get());  // itself
    loop->After(1, [&] {
      order += "t";
      loop->Stop();
    });
  }));
  std::thread other([&] {
    loop->Post([&] {
      order += "p";
      ASSERT_EQ(write(pipe.writer.get(), "rr", 2), 2);
    });
  });
  ASSERT_TRUE(loop->Run());
  other.join();
  EXPECT_EQ(order, "prt");
}

TEST(EventLoop, AStopBeforeItsRunCounts) {
  auto loop = EventLoop::Create().value();
  loop->Stop();
  bool late = false;
  loop->After(10'000, [&] { late = true, loop->Stop(); });  // so that a failure ends too
  ASSERT_TRUE(loop->Run());
  EXPECT_FALSE(late);
  // Once.
  loop->Post([&] { loop->Stop(); });
  ASSERT_TRUE(loop->Run());
}

TEST(EventLoop, TimersRunInOrderAndCanBeCancelled) {
  auto loop = EventLoop::Create().value();
  std::string order;
  auto cancelled = loop->After(1, [&] { order += "x"; });
  loop->After(5, [&] {
    order += "b";
    loop->Stop();
  });
  loop->After(2, [&] { order += "a"; });
  loop->CancelTimer(cancelled);
  loop->CancelTimer(12345);
  ASSERT_TRUE(loop->Run());
  EXPECT_EQ(order, "ab");
}

TEST(EventLoop, NoEventForAWatchRemovedInTheSameTurn) {
  auto loop = EventLoop::Create().value();
  Pipe one, two;
  int calls = 0;
  auto callback = [&](uint32_t) {
    ++calls;
    loop->Unwatch(one.reader.get());
    loop->Unwatch(two.reader.get());
    loop->Post([&] { loop->Stop(); });
  };
  ASSERT_TRUE(loop->Watch(one.reader.get(), EPOLLIN, callback));
  ASSERT_TRUE(loop->Watch(two.reader.get(), EPOLLIN, callback));
  ASSERT_EQ(write(one.writer.get(), "1", 1), 1);
  ASSERT_EQ(write(two.writer.get(), "2", 1), 1);
  ASSERT_TRUE(loop->Run());
  EXPECT_EQ(calls, 1);
}

TEST(EventLoop, ErrorsNameTheDescriptor) {
  auto loop = EventLoop::Create().value();
  EXPECT_NE(loop->Watch(9999, EPOLLIN, [](uint32_t) {}).error().message.find("9999"), std::string::npos);
  EXPECT_FALSE(loop->Modify(9999, EPOLLIN).has_value());
}

}  // namespace
}  // namespace caisson::sys

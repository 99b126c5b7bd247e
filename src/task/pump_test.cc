// SPDX-License-Identifier: Apache-2.0
#include "task/pump.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <thread>

namespace caisson::task {
namespace {

struct Ends {
  UniqueFd reader, writer;
};

Ends Pipe() {
  int fds[2];
  EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

Ends Socket() {
  int fds[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::string Pattern(size_t size) {
  std::string data(size, '\0');
  for (size_t i = 0; i < size; ++i) data[i] = static_cast<char>(i * 2654435761u >> 16);
  return data;
}

// Takes all until the end; the other side is a plain blocking descriptor.
std::string ReadAll(int fd) {
  std::string all;
  char buffer[7001];
  for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;) all.append(buffer, static_cast<size_t>(got));
  return all;
}

void WriteAll(int fd, std::string_view data, size_t step) {
  while (!data.empty()) {
    ssize_t put = write(fd, data.data(), std::min(step, data.size()));
    if (put <= 0) return;
    data.remove_prefix(static_cast<size_t>(put));
  }
}

class PumpTest : public ::testing::Test {
 protected:
  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);
    auto loop = sys::EventLoop::Create();
    ASSERT_TRUE(loop);
    loop_ = std::move(*loop);
    scratch_ = std::make_unique<Scratch>(loop_.get());
  }

  std::unique_ptr<Pump> Make(UniqueFd from, UniqueFd to) {
    return std::make_unique<Pump>(loop_.get(), scratch_.get(), std::move(from), std::move(to), [this] {
      ++ends_;
      loop_->Stop();
    });
  }

  // Everything arrives as it was, and the end after it; neither side is waited for by turning round and round.
  void Copies(Ends in, Ends out, size_t step) {
    const std::string data = Pattern(3 << 20);
    auto pump = Make(std::move(in.reader), std::move(out.writer));
    std::string got;
    std::thread reads([&] { got = ReadAll(out.reader.get()); });
    std::thread writes([&, writer = std::move(in.writer)] { WriteAll(writer.get(), data, step); });
    EXPECT_TRUE(loop_->Run());
    writes.join();
    reads.join();
    EXPECT_EQ(got.size(), data.size());
    EXPECT_TRUE(got == data);
    EXPECT_TRUE(pump->ended());
    EXPECT_EQ(ends_, 1);
  }

  std::unique_ptr<sys::EventLoop> loop_;
  std::unique_ptr<Scratch> scratch_;
  int ends_ = 0;
};

TEST_F(PumpTest, CopiesFromPipeToPipe) { Copies(Pipe(), Pipe(), 1 << 20); }
TEST_F(PumpTest, CopiesSmallPieces) { Copies(Pipe(), Pipe(), 1001); }
TEST_F(PumpTest, CopiesFromPipeToSocket) { Copies(Pipe(), Socket(), 1 << 20); }
TEST_F(PumpTest, CopiesFromSocketToPipe) { Copies(Socket(), Pipe(), 1 << 20); }

TEST_F(PumpTest, EndsWhenNobodyReads) {
  for (bool pipes : {true, false}) {
    ends_ = 0;
    Ends in = Pipe(), out = pipes ? Pipe() : Socket();
    auto pump = Make(std::move(in.reader), std::move(out.writer));
    out.reader.Reset();
    WriteAll(in.writer.get(), "x", 1);
    pump->Drain();
    EXPECT_TRUE(pump->ended());
    EXPECT_EQ(ends_, 1);
  }
}

// The source has ended and the sink is full: what is left waits without a turn of the loop, and goes when there is room.
TEST_F(PumpTest, WaitsForAFullSinkWithoutTurning) {
  Ends in = Pipe(), out = Pipe();
  int sink = out.writer.get();
  auto pump = Make(std::move(in.reader), std::move(out.writer));
  std::string filler(4096, 'f');
  size_t filled = 0;
  fcntl(sink, F_SETFL, fcntl(sink, F_GETFL) | O_NONBLOCK);
  while (write(sink, filler.data(), filler.size()) > 0) filled += filler.size();
  // Until no more of it can go.
  fcntl(in.writer.get(), F_SETFL, O_NONBLOCK);
  for (size_t left = 8 << 20; left > 0; left -= filler.size()) {
    if (write(in.writer.get(), filler.data(), filler.size()) <= 0) break;
    filled += filler.size();
    pump->Drain();
  }
  in.writer.Reset();
  pump->Drain();
  ASSERT_FALSE(pump->ended());
  // A loop that is woken over and over would run tasks in between; one that sleeps runs only the timer's.
  loop_->After(50, [&] { loop_->Stop(); });
  timespec before{}, after{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  EXPECT_TRUE(loop_->Run());
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  int64_t used = (after.tv_sec - before.tv_sec) * 1'000'000'000LL + after.tv_nsec - before.tv_nsec;
  EXPECT_LT(used, 20'000'000) << "of 50 ms";
  EXPECT_EQ(ends_, 0);
  std::string got;
  std::thread reads([&] { got = ReadAll(out.reader.get()); });
  while (!pump->ended()) {
    loop_->After(1, [&] { loop_->Stop(); });
    EXPECT_TRUE(loop_->Run());
  }
  reads.join();
  EXPECT_EQ(got, std::string(filled, 'f'));
}

}  // namespace
}  // namespace caisson::task

// SPDX-License-Identifier: Apache-2.0
#include "task/kept_output.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>

#include "base/limits.h"
#include "task/queued_input.h"

namespace caisson::task {
namespace {

using Part = KeptOutput::Part;

struct Read {
  std::optional<Result<Part>> part;
  KeptOutput::Reader Reader() {
    return [this](Result<Part> got) { part = std::move(got); };
  }
};

TEST(KeptOutputTest, IsReadInPartsAndEndsWithTheLast) {
  KeptOutput kept;
  kept.Append("hello");
  kept.End();
  Read first, second;
  kept.Read(3, false, first.Reader());
  kept.Read(100, false, second.Reader());
  EXPECT_EQ((*first.part)->data, "hel");
  EXPECT_FALSE((*first.part)->ended);
  EXPECT_EQ((*second.part)->data, "lo");
  EXPECT_TRUE((*second.part)->ended);
}

TEST(KeptOutputTest, AReaderWaitsForBytesTheEndOrTheExit) {
  KeptOutput kept;
  Read waits, refused, none, exits, ends;
  kept.Read(10, false, waits.Reader());
  EXPECT_FALSE(waits.part);
  kept.Read(10, false, refused.Reader());
  EXPECT_EQ(refused.part->error().code, Code::kFailedPrecondition);
  kept.Append("x");
  EXPECT_EQ((*waits.part)->data, "x");
  kept.Read(10, true, none.Reader());
  EXPECT_EQ((*none.part)->data, "");
  EXPECT_FALSE((*none.part)->ended);
  kept.Read(10, false, exits.Reader());
  kept.OnExit();
  ASSERT_TRUE(exits.part);
  EXPECT_FALSE((*exits.part)->ended);
  kept.Read(10, false, ends.Reader());
  EXPECT_FALSE(ends.part) << "after the exit too it waits for more";
  kept.End();
  EXPECT_TRUE((*ends.part)->ended);
}

class KeptPipeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = std::move(*sys::EventLoop::Create());
    scratch_ = std::make_unique<Scratch>(loop_.get());
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    reader_ = UniqueFd(ends[0]);
    writer_ = UniqueFd(ends[1]);
  }
  std::unique_ptr<sys::EventLoop> loop_;
  std::unique_ptr<Scratch> scratch_;
  UniqueFd reader_, writer_;
};

// A dead process's last words may be more than is kept: no read that asks for what is there misses them.
TEST_F(KeptPipeTest, NothingIsLostBeyondTheBound) {
  KeptOutput kept;
  Output output(loop_.get(), scratch_.get(), std::move(reader_), [&](std::string_view bytes) { kept.Append(bytes); }, [&] { kept.End(); });
  kept.SetSource(&output);
  fcntl(writer_.get(), F_SETPIPE_SZ, 1 << 20);
  size_t written = 0, read = 0;
  std::string block(32 << 10, 'x');
  auto fill = [&] {
    for (ssize_t n; (n = write(writer_.get(), block.data(), block.size())) > 0;) written += static_cast<size_t>(n);
  };
  fill();
  output.Drain();
  fill();
  output.Drain();
  fill();
  EXPECT_GT(written, limits::kKeptOutputBytes);
  writer_.Reset();
  bool ended = false;
  for (int i = 0; i < 1000 && !ended; ++i) {
    Read part;
    kept.Read(100'000, true, part.Reader());
    ASSERT_TRUE(part.part && *part.part);
    read += (*part.part)->data.size();
    ended = (*part.part)->ended;
  }
  EXPECT_TRUE(ended);
  EXPECT_EQ(read, written);
}

TEST_F(KeptPipeTest, AWriteIsAnsweredWhenAllIsInThePipe) {
  QueuedInput input(loop_.get(), std::move(writer_));
  std::optional<Result<>> first, second;
  input.Write(std::string(200 << 10, 'x'), [&](Result<> done) {
    first = std::move(done);
    loop_->Stop();
  });
  EXPECT_FALSE(first) << "it does not fit";
  input.Write("y", [&](Result<> done) { second = std::move(done); });
  EXPECT_EQ(second->error().code, Code::kFailedPrecondition);
  size_t got = 0;
  std::string buffer(64 << 10, '\0');
  ASSERT_TRUE(loop_->Watch(reader_.get(), 1 /* EPOLLIN */, [&](uint32_t) {
    ssize_t n = read(reader_.get(), buffer.data(), buffer.size());
    if (n > 0) got += static_cast<size_t>(n);
  }));
  ASSERT_TRUE(loop_->Run());
  ASSERT_TRUE(*first);
  for (ssize_t n; (n = read(reader_.get(), buffer.data(), buffer.size())) > 0;) got += static_cast<size_t>(n);
  EXPECT_EQ(got, 200u << 10);
  loop_->Unwatch(reader_.get());
}

TEST_F(KeptPipeTest, AWriteThatNobodyReadsFails) {
  std::optional<Result<>> done;
  {
    QueuedInput input(loop_.get(), std::move(writer_));
    input.Write(std::string(200 << 10, 'x'), [&](Result<> result) { done = std::move(result); });
  }
  ASSERT_TRUE(done);
  EXPECT_EQ(done->error().code, Code::kFailedPrecondition);
}

}  // namespace
}  // namespace caisson::task

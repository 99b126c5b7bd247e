// SPDX-License-Identifier: Apache-2.0
#include "image/chunk_channel.h"

#include <latch>
#include <thread>

#include <gtest/gtest.h>

namespace caisson::image {
namespace {

TEST(ChunkChannel, GivesEveryByteInOrder) {
  ChunkChannel channel;
  std::string sent, got;
  for (int i = 0; i < 300'000; ++i) sent += std::to_string(i);
  std::jthread writer([&] {
    for (size_t at = 0, size = 1; at < sent.size(); at += size, size = size * 7 % 50'000 + 1) {
      ASSERT_TRUE(channel.Write(std::string_view(sent).substr(at, size)));
    }
    channel.Finish(std::nullopt);
  });
  for (;;) {
    auto block = channel.Read();
    ASSERT_TRUE(block);
    if (block->empty()) break;
    got += *block;
  }
  EXPECT_TRUE(got == sent);
  EXPECT_EQ(channel.Read().value(), "") << "the end stays the end";
}

TEST(ChunkChannel, AnErrorStandsInForTheEnd) {
  ChunkChannel channel;
  ASSERT_TRUE(channel.Write("half"));
  channel.Finish(MakeError(Code::kUnavailable, "broken"));
  auto block = channel.Read();
  ASSERT_FALSE(block);
  EXPECT_EQ(block.error().code, Code::kUnavailable);
}

TEST(ChunkChannel, AWriterThatWaitsLearnsOfTheStop) {
  ChunkChannel channel;
  std::latch first(1);
  std::jthread writer([&] {
    std::string block(256 << 10, 'x');
    ASSERT_TRUE(channel.Write(block));
    first.count_down();
    uint64_t written = 0;
    while (channel.Write(block)) ASSERT_LT(written += block.size(), uint64_t{64} << 20) << "nothing bounds the writer";
    channel.Finish(MakeError(Code::kCancelled, "stopped"));
  });
  first.wait();
  channel.Stop();
  writer.join();
}

TEST(ChunkChannel, FinishDoesNotWaitForAReaderThatStopped) {
  ChunkChannel channel;
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(channel.Write(std::string(256 << 10, 'x')));
  ASSERT_TRUE(channel.Write("rest"));
  std::jthread writer([&] { channel.Finish(std::nullopt); });
  channel.Stop();
}

}  // namespace
}  // namespace caisson::image

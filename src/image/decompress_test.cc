// SPDX-License-Identifier: Apache-2.0
#include "image/decompress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image/tar_fixture.h"

namespace caisson::image {
namespace {

using testing::HasSubstr;

// Everything, given in pieces of `piece` bytes.
Result<std::string> All(const std::string& input, size_t piece = 4096) {
  size_t at = 0;
  Decompressor decompressor([&]() -> Result<std::string> {
    std::string next = input.substr(at, piece);
    at += next.size();
    return next;
  });
  std::string all;
  for (;;) {
    std::string_view bytes = TRY(decompressor.Next());
    if (bytes.empty()) return all;
    all += bytes;
  }
}

std::string Text() {
  std::string text;
  for (int i = 0; text.size() < (1 << 20); ++i) text += std::to_string(i * 2654435761u) + "\n";
  return text;
}

TEST(Decompressor, TellsFormatsApartByTheirBytes) {
  const std::string text = Text();
  for (const std::string& input : {text, Gzip(text), Zstd(text)}) {
    for (size_t piece : {size_t{1000}, size_t{65536}, input.size()}) {
      auto all = All(input, piece);
      ASSERT_TRUE(all) << all.error().message;
      EXPECT_TRUE(*all == text) << piece;
    }
  }
  for (const std::string& small : {Gzip("x"), Zstd("x"), std::string("x")}) EXPECT_EQ(All(small, 1).value(), "x");
  EXPECT_EQ(All("").value(), "");
  EXPECT_EQ(All(Gzip("")).value(), "");
  EXPECT_EQ(All(Zstd("")).value(), "");
}

TEST(Decompressor, TakesSeveralMembersAndPadding) {
  const std::string text = Text();
  EXPECT_TRUE(All(Gzip(text) + Gzip("") + Gzip("end")).value() == text + "end");
  EXPECT_TRUE(All(Gzip(text) + std::string(70'000, '\0')).value() == text);
  const std::string skippable("\x50\x2a\x4d\x18\x03\x00\x00\x00xyz", 11);
  EXPECT_TRUE(All(skippable + Zstd(text) + skippable + Zstd("end")).value() == text + "end");
}

TEST(Decompressor, BrokenInputIsDataLoss) {
  const std::string text = Text(), gzip = Gzip(text), zstd = Zstd(text);
  std::vector<std::pair<const char*, std::string>> cases = {
      {"gzip, header only", gzip.substr(0, 10)},
      {"gzip, cut", gzip.substr(0, gzip.size() / 2)},
      {"gzip, no checksum", gzip.substr(0, gzip.size() - 8)},
      {"gzip, half a checksum", gzip.substr(0, gzip.size() - 1)},
      {"gzip, garbage after it", gzip + "garbage"},
      {"gzip, garbage after padding", gzip + std::string(10, '\0') + "garbage"},
      {"gzip, cut second member", gzip + gzip.substr(0, 100)},
      {"zstd, cut", zstd.substr(0, zstd.size() / 2)},
      {"zstd, last byte", zstd.substr(0, zstd.size() - 1)},
      {"zstd, garbage after it", zstd + "garbage"},
  };
  std::string wrong = gzip;
  wrong[wrong.size() - 6] ^= 1;
  cases.emplace_back("gzip, wrong checksum", wrong);
  wrong = gzip;
  wrong[wrong.size() - 2] ^= 1;
  cases.emplace_back("gzip, wrong length", wrong);
  for (const auto& [name, input] : cases) {
    for (size_t piece : {size_t{7}, size_t{1} << 20}) {
      auto all = All(input, piece);
      ASSERT_FALSE(all) << name;
      EXPECT_EQ(all.error().code, Code::kDataLoss) << name << ": " << all.error().message;
    }
  }
}

TEST(Decompressor, AZstdWindowCannotDemandMemory) {
  // A frame header that asks for a window of 2 GiB (RFC 8878, 3.1.1.1.2): exponent 21.
  std::string frame("\x28\xb5\x2f\xfd\x00\xa8", 6);
  auto refused = All(frame + std::string(100, '\0'));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("memory"));
}

TEST(Decompressor, ABombComesInPieces) {
  // 1 GiB of zeros from 1 MB: whoever reads can stop at any time, and no piece is large.
  std::string member = Gzip(std::string(64 << 20, '\0'));
  int left = 16;
  Decompressor decompressor([&]() -> Result<std::string> { return left-- > 0 ? member : std::string(); });
  uint64_t total = 0;
  for (;;) {
    auto bytes = decompressor.Next();
    ASSERT_TRUE(bytes);
    if (bytes->empty()) break;
    ASSERT_LE(bytes->size(), size_t{1} << 20);
    total += bytes->size();
  }
  EXPECT_EQ(total, uint64_t{1} << 30);
}

TEST(Decompressor, TheSourcesErrorIsPassedOn) {
  for (const std::string& input : {Text(), Gzip(Text()), Zstd(Text())}) {
    size_t at = 0;
    Decompressor decompressor([&]() -> Result<std::string> {
      if (at > 5000) return MakeError(Code::kUnavailable, "the line is dead");
      at += 1000;
      return input.substr(at - 1000, 1000);
    });
    for (;;) {
      auto bytes = decompressor.Next();
      if (bytes) {
        ASSERT_FALSE(bytes->empty()) << "an error is no end";
        continue;
      }
      EXPECT_EQ(bytes.error().code, Code::kUnavailable);
      break;
    }
  }
}

}  // namespace
}  // namespace caisson::image

// SPDX-License-Identifier: Apache-2.0
#include "files/fuse_request.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace caisson::files {
namespace {

std::string Request(uint32_t opcode, const std::string& body, int more = 0) {
  fuse_in_header header{};
  header.len = static_cast<uint32_t>(static_cast<int>(sizeof header + body.size()) + more);
  header.opcode = opcode;
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + body;
}

void Feed(FuseReader* reader, std::string_view bytes) {
  std::memcpy(reader->Room(bytes.size()), bytes.data(), bytes.size());
  reader->Added(bytes.size());
}

TEST(FuseReaderTest, RequestsInAnyPieces) {
  std::string stream = Request(1, "one") + Request(2, "") + Request(3, std::string(100'000, 'x'));
  for (size_t piece : {size_t{1}, size_t{39}, size_t{41}, size_t{4096}, stream.size()}) {
    FuseReader reader;
    std::vector<std::pair<uint32_t, size_t>> got;
    for (size_t at = 0; at < stream.size(); at += piece) {
      Feed(&reader, std::string_view(stream).substr(at, piece));
      for (;;) {
        auto next = reader.Next();
        ASSERT_TRUE(next);
        if (!*next) break;
        got.emplace_back((*next)->header.opcode, (*next)->body.size());
      }
    }
    EXPECT_EQ(got, (std::vector<std::pair<uint32_t, size_t>>{{1, 3}, {2, 0}, {3, 100'000}})) << piece;
  }
}

TEST(FuseReaderTest, LengthsThatCannotBe) {
  for (int more : {-1, -40, static_cast<int>(limits::kSharedMessageBytes), 0x7fffff00}) {
    FuseReader reader;
    Feed(&reader, Request(1, "", more));
    EXPECT_FALSE(reader.Next()) << more;
  }
  FuseReader reader;
  Feed(&reader, Request(1, "", 1));
  ASSERT_TRUE(reader.Next());
  EXPECT_FALSE(reader.Next()->has_value());
}

TEST(FuseBodyTest, AfterAFailureNothingIsTaken) {
  std::string bytes("\x01\0\0\0name\0rest", 13);
  FuseBody body(bytes);
  EXPECT_EQ(body.Take<uint32_t>(), 1u);
  EXPECT_EQ(body.TakeName(), "name");
  EXPECT_EQ(body.Rest(), "rest");
  EXPECT_EQ(body.error(), 0);
  EXPECT_EQ(body.Take<uint64_t>(), 0u);
  EXPECT_EQ(body.error(), EINVAL);
  EXPECT_EQ(body.TakeText(10), "");
}

}  // namespace
}  // namespace caisson::files

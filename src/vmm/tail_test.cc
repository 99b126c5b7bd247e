// SPDX-License-Identifier: Apache-2.0
#include "vmm/tail.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace caisson::vmm {
namespace {

TEST(Tail, KeepsTheEnd) {
  auto tail = Tail::Create(10);
  ASSERT_TRUE(tail);
  UniqueFd writer = tail->TakeWriter();
  ASSERT_EQ(write(writer.get(), "one two three", 13), 13);
  EXPECT_TRUE(tail->Drain());
  EXPECT_EQ(tail->Last(100), " two three");
  EXPECT_EQ(tail->Last(5), "three");
  ASSERT_EQ(write(writer.get(), "!", 1), 1);
  writer.Reset();
  EXPECT_FALSE(tail->Drain());
  EXPECT_EQ(tail->Last(100), "two three!");
  tail->Close();
  EXPECT_FALSE(tail->Drain());
  EXPECT_EQ(tail->Last(100), "two three!");
}

TEST(Tail, FromWhereOneWas) {
  auto tail = Tail::Create(10);
  ASSERT_TRUE(tail);
  UniqueFd writer = tail->TakeWriter();
  EXPECT_EQ(tail->From(0), "");
  ASSERT_EQ(write(writer.get(), "one two three", 13), 13);
  EXPECT_TRUE(tail->Drain());
  EXPECT_EQ(tail->total(), 13u);
  EXPECT_EQ(tail->From(0), " two three");  // "one" is kept no more
  EXPECT_EQ(tail->From(8), "three");
  EXPECT_EQ(tail->From(13), "");
  EXPECT_EQ(tail->From(99), "");
}

TEST(Tail, NobodyWaits) {
  auto tail = Tail::Create(10);
  ASSERT_TRUE(tail);
  UniqueFd writer = tail->TakeWriter();
  EXPECT_TRUE(tail->Drain());
  EXPECT_EQ(tail->Last(100), "");
  std::string much(4096, 'x');
  ssize_t put;
  while ((put = write(writer.get(), much.data(), much.size())) > 0) {
  }
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_TRUE(tail->Drain());
  EXPECT_EQ(tail->Last(100), "xxxxxxxxxx");
}

TEST(Printable, MovesNoTerminal) {
  EXPECT_EQ(Printable("a\tb\r\nc\r"), "a\tb\nc\\x0d");
  EXPECT_EQ(Printable(std::string_view("\0\x1b]0;x\x07\x7f\xc3\xa4", 9)), "\\x00\\x1b]0;x\\x07\\x7f\\xc3");
  EXPECT_EQ(Printable(""), "");
}

}  // namespace
}  // namespace caisson::vmm

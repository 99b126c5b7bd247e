// SPDX-License-Identifier: Apache-2.0
#include "sys/proc_text.h"

#include <gmock/gmock.h>

namespace caisson::sys {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ProcText, FieldsFollowTheLastParenthesis) {
  EXPECT_THAT(StatFields("12 (a) b) c) S 1 2"), ElementsAre("S", "1", "2"));
  for (const char* text : {"", "12", "12 (name", "12 (name)"}) EXPECT_THAT(StatFields(text), IsEmpty()) << text;
}

TEST(ProcText, NumberOfTheLineWithTheKey) {
  constexpr char kText[] = "VmRSSx:\t1 kB\nVmRSS:\t  20 kB\nballoon_inflate_x 3\nballoon_inflate 4\nlast: 5";
  EXPECT_EQ(ProcNumber(kText, "VmRSS:"), 20u);
  EXPECT_EQ(ProcNumber(kText, "balloon_inflate "), 4u);
  EXPECT_EQ(ProcNumber(kText, "last:"), 5u);
  EXPECT_EQ(ProcNumber(kText, "none:"), 0u);
  EXPECT_EQ(ProcNumber("Threads:\tmany\n", "Threads:"), 0u);
}

}  // namespace
}  // namespace caisson::sys

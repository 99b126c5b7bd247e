// SPDX-License-Identifier: Apache-2.0
#include "agent/early_init.h"

#include <gtest/gtest.h>

namespace caisson::agent {
namespace {

TEST(EarlyInit, WordsOfTheCommandLine) {
  EXPECT_TRUE(HasWord("console=ttyS0 quiet caisson.debug\n", "caisson.debug"));
  EXPECT_TRUE(HasWord("caisson.debug", "caisson.debug"));
  for (const char* line : {"", "\n", "console=ttyS0 quiet\n", "caisson.debug=0", "xcaisson.debug", "quiet,caisson.debug x"}) {
    EXPECT_FALSE(HasWord(line, "caisson.debug")) << line;
  }
}

}  // namespace
}  // namespace caisson::agent

// SPDX-License-Identifier: Apache-2.0
#include "agent/early_init.h"

#include <gtest/gtest.h>

namespace caisson::agent {
namespace {

TEST(EarlyInit, DebuggingIsAWordOfItsOwn) {
  EXPECT_TRUE(HasDebugWord("console=ttyS0 quiet caisson.debug\n"));
  EXPECT_TRUE(HasDebugWord("caisson.debug"));
  for (const char* line : {"", "\n", "console=ttyS0 quiet\n", "caisson.debug=0", "xcaisson.debug", "quiet,caisson.debug x"}) {
    EXPECT_FALSE(HasDebugWord(line)) << line;
  }
}

}  // namespace
}  // namespace caisson::agent

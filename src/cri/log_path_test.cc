// SPDX-License-Identifier: Apache-2.0
#include "cri/log_path.h"

#include <gtest/gtest.h>

namespace caisson::cri {
namespace {

TEST(JoinLogPath, JoinsInsideTheDirectory) {
  EXPECT_EQ(*JoinLogPath("/var/log/pods/x", "c/0.log"), "/var/log/pods/x/c/0.log");
  EXPECT_EQ(*JoinLogPath("/var/log/pods/x/", "/c/0.log"), "/var/log/pods/x/c/0.log");
  EXPECT_EQ(*JoinLogPath("", "0.log"), "");
  EXPECT_EQ(*JoinLogPath("/var/log", ""), "");
}

TEST(JoinLogPath, RefusesToLeaveIt) {
  for (const char* bad : {"..", "../x", "a/../../x", "a/..", "a/", "/"}) EXPECT_FALSE(JoinLogPath("/d", bad)) << bad;
  EXPECT_FALSE(JoinLogPath("relative", "x"));
  EXPECT_FALSE(JoinLogPath("/a/../b", "x"));
  EXPECT_FALSE(JoinLogPath("/d", std::string(5000, 'a')));
  EXPECT_FALSE(JoinLogPath("/d", std::string("a\0b", 3)));
}

}  // namespace
}  // namespace caisson::cri

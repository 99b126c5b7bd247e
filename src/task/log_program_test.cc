// SPDX-License-Identifier: Apache-2.0
#include "task/log_program.h"

#include <gmock/gmock.h>

namespace caisson::task {
namespace {

using testing::ElementsAre;

TEST(LogUri, ProgramAndArguments) {
  EXPECT_THAT(*ParseLogUri("binary:///bin/log"), ElementsAre("/bin/log"));
  EXPECT_THAT(*ParseLogUri("binary:///bin/log?a=b&c"), ElementsAre("/bin/log", "a", "b", "c", ""));
  EXPECT_THAT(*ParseLogUri("binary:///bin/my%20log?a+b=%2Fx%3d&&d=1=2"), ElementsAre("/bin/my log", "a b", "/x=", "d", "1=2"));
}

TEST(LogUri, WhatIsRefused) {
  for (const char* uri : {"binary://", "binary://log", "binary:///log?a=%", "binary:///log?a=%4", "binary:///log?a=%zz", "binary:///lo%00g", "file:///log", ""}) {
    EXPECT_FALSE(ParseLogUri(uri).has_value()) << uri;
  }
  EXPECT_FALSE(ParseLogUri("binary:///log?" + std::string(20'000, 'a')).has_value());
  std::string many = "binary:///log?";
  for (int i = 0; i < 500; ++i) many += "a=b&";
  EXPECT_FALSE(ParseLogUri(many).has_value());
}

}  // namespace
}  // namespace caisson::task

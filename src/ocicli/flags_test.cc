// SPDX-License-Identifier: Apache-2.0
#include "ocicli/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caisson::ocicli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::vector<Flag> kKnown = {{"bundle", "b", Flag::Kind::kText, ""},
                                  {"detach", "d", Flag::Kind::kSwitch, ""},
                                  {"env", "e", Flag::Kind::kList, ""}};

TEST(FlagsTest, TakesEachWayOfWritingAFlag) {
  for (std::vector<std::string> words : {std::vector<std::string>{"--bundle", "/b", "id"}, {"--bundle=/b", "id"}, {"-b", "/b", "id"},
                                         {"-b=/b", "id"}, {"-bundle", "/b", "id"}, {"id", "--bundle", "/b"}}) {
    auto flags = Flags::Parse(kKnown, words, 2);
    ASSERT_TRUE(flags) << flags.error().message;
    EXPECT_EQ(flags->Text("bundle"), "/b") << words[0];
    EXPECT_THAT(flags->words(), ElementsAre("id"));
  }
}

TEST(FlagsTest, LeavesTheProgramsWordsAlone) {
  auto flags = Flags::Parse(kKnown, {"-d", "-e", "A=1", "--env", "B=--x", "id", "ls", "-l", "--detach=false", "--"}, 1);
  ASSERT_TRUE(flags) << flags.error().message;
  EXPECT_TRUE(flags->On("detach"));
  EXPECT_THAT(flags->List("env"), ElementsAre("A=1", "B=--x"));
  EXPECT_THAT(flags->words(), ElementsAre("id", "ls", "-l", "--detach=false", "--"));
}

TEST(FlagsTest, SwitchesCanBeOff) {
  auto flags = Flags::Parse(kKnown, {"-d", "--detach=false"}, 1);
  ASSERT_TRUE(flags);
  EXPECT_FALSE(flags->On("detach"));
  EXPECT_TRUE(flags->Given("detach"));
  EXPECT_FALSE(flags->Given("bundle"));
  EXPECT_EQ(flags->Text("bundle"), "");
}

TEST(FlagsTest, NamesWhatIsWrong) {
  for (auto [words, message] : {std::pair<std::vector<std::string>, const char*>{{"--what"}, "unknown flag '--what'"},
                                {{"--bundle"}, "flag '--bundle' has no value"},
                                {{"--detach=maybe"}, "is true or false"},
                                {{"---"}, "unknown flag"}}) {
    auto flags = Flags::Parse(kKnown, words, 1);
    ASSERT_FALSE(flags) << words[0];
    EXPECT_THAT(flags.error().message, HasSubstr(message));
  }
}

TEST(FlagsTest, ADashIsAWord) {
  auto flags = Flags::Parse(kKnown, {"-", "--", "-d"}, 3);
  ASSERT_TRUE(flags);
  EXPECT_THAT(flags->words(), ElementsAre("-", "-d"));
}

TEST(DurationTest, AddsItsParts) {
  for (auto [text, millis] : {std::pair("5s", 5000), {"500ms", 500}, {"1m30s", 90'000}, {"2h", 7'200'000}}) {
    auto parsed = ParseDuration(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(*parsed, millis) << text;
  }
  for (const char* text : {"", "5", "s", "-5s", "5x", "9999999999s"}) EXPECT_FALSE(ParseDuration(text)) << text;
}

}  // namespace
}  // namespace caisson::ocicli

// SPDX-License-Identifier: Apache-2.0
#include "image/challenge.h"

#include <gtest/gtest.h>

namespace caisson::image {
namespace {

std::vector<Challenge> Parse(std::string_view header) {
  std::vector<Challenge> out;
  ParseChallenges(header, &out);
  return out;
}

TEST(Challenge, ReadsBearer) {
  auto all = Parse(R"(Bearer realm="https://auth.example.com/token",service="reg",scope="repository:a/b:pull,push")");
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].scheme, "bearer");
  EXPECT_EQ(all[0].Param("realm"), "https://auth.example.com/token");
  EXPECT_EQ(all[0].Param("scope"), "repository:a/b:pull,push");
  EXPECT_EQ(all[0].Param("none"), "");
}

TEST(Challenge, ReadsSeveralInOneHeader) {
  auto all = Parse(R"(Negotiate YIIabc/+==, BASIC Realm = "a \"b\", c" , Digest nonce=x, qop="auth",Bearer realm=tok)");
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all[0].scheme, "negotiate");
  EXPECT_EQ(all[1].scheme, "basic");
  EXPECT_EQ(all[1].Param("realm"), R"(a "b", c)");
  EXPECT_EQ(all[2].Param("nonce"), "x");
  EXPECT_EQ(all[2].Param("qop"), "auth");
  EXPECT_EQ(all[3].Param("realm"), "tok");
}

TEST(Challenge, SurvivesGarbage) {
  EXPECT_TRUE(Parse("").empty());
  EXPECT_TRUE(Parse(",,, ,").empty());
  EXPECT_TRUE(Parse("\"quoted\"").empty());
  EXPECT_EQ(Parse("Bearer").size(), 1u);
  EXPECT_EQ(Parse("Bearer realm=\"never closed").size(), 1u);
  EXPECT_EQ(Parse("Bearer realm=\"x\\").at(0).Param("realm"), "");
  EXPECT_EQ(Parse("Bearer realm=").at(0).Param("realm"), "");
  // The first of a name counts: a second realm cannot take its place.
  EXPECT_EQ(Parse(R"(Bearer realm="a", realm="b")").at(0).Param("realm"), "a");
  std::string many, params = "Bearer ";
  for (int i = 0; i < 1000; ++i) many += "Basic realm=x, ", params += "p" + std::to_string(i) + "=1, ";
  EXPECT_EQ(Parse(many).size(), 8u);
  EXPECT_EQ(Parse(params).at(0).params.size(), 16u);
  EXPECT_LE(Parse("Bearer realm=\"" + std::string(1 << 20, 'a') + "\"").size(), 1u);
}

}  // namespace
}  // namespace caisson::image

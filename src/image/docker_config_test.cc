// SPDX-License-Identifier: Apache-2.0
#include "image/docker_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caisson::image {
namespace {

using testing::HasSubstr;
using testing::Not;

// "user" of the login found, or "-".
std::string UserFor(std::string_view config, std::string_view host, std::string_view path = "library/app") {
  auto login = FindDockerLogin(config, "config.json", host, path);
  if (!login) return login.error().message;
  return login->credentials ? login->credentials->username : "-";
}

TEST(DockerConfig, FindsTheLoginOfAHost) {
  std::string config = fmt::format(
      R"({{"auths":{{"https://index.docker.io/v1/":{{"auth":"{}"}},)"
      R"("reg.example.com:5000":{{"username":"u","password":"p"}},)"
      R"("quay.io":{{"username":"all","password":"p"}},"quay.io/org/app":{{"username":"one","password":"p"}},)"
      R"("empty.example.com":{{}}}},"HttpHeaders":{{}}}})",
      Base64("hub:s3cret:with:colons"));
  EXPECT_EQ(UserFor(config, "docker.io"), "hub");
  EXPECT_EQ(FindDockerLogin(config, "f", "docker.io", "a")->credentials->password, "s3cret:with:colons");
  EXPECT_EQ(UserFor(config, "reg.example.com:5000"), "u");
  EXPECT_EQ(UserFor(config, "reg.example.com"), "-");
  EXPECT_EQ(UserFor(config, "example.com"), "-");
  EXPECT_EQ(UserFor(config, "quay.io", "org/other"), "all");
  EXPECT_EQ(UserFor(config, "quay.io", "org/app"), "one");
  EXPECT_EQ(UserFor(config, "quay.io", "org/app/sub"), "one");
  EXPECT_EQ(UserFor(config, "quay.io", "org/apple"), "all");
  EXPECT_EQ(UserFor(config, "empty.example.com"), "-");
}

TEST(DockerConfig, HelpersAreNotRunAndSaySo) {
  auto login = FindDockerLogin(R"({"credHelpers":{"reg.example.com":"ecr-login"},"credsStore":"desktop"})", "f",
                               "reg.example.com", "a");
  ASSERT_TRUE(login);
  EXPECT_FALSE(login->credentials);
  EXPECT_THAT(login->note, HasSubstr("'ecr-login', which is not run"));
  EXPECT_THAT(FindDockerLogin(R"({"credsStore":"desktop"})", "f", "other", "a")->note, HasSubstr("desktop"));
}

TEST(DockerConfig, ErrorsNameTheFileAndNoSecret) {
  EXPECT_THAT(UserFor(R"({"auths":7})", "a"), HasSubstr("config.json"));
  EXPECT_THAT(UserFor(R"({"auths":{"a":{"auth":"hunter2!"}}})", "a"), HasSubstr("base64"));
  EXPECT_THAT(UserFor(R"({"auths":{"a":{"auth":"hunter2!"}}})", "a"), Not(HasSubstr("hunter2")));
  EXPECT_THAT(UserFor(R"({"auths":{"a":{"auth":"hunter2)", "a"), Not(HasSubstr("hunter2")));
  EXPECT_EQ(UserFor("", "a"), "-");
  EXPECT_TRUE(ReadDockerLogin("/nonexistent/config.json", "a", "b"));
}

TEST(DockerConfig, Base64BothWays) {
  for (const char* pair : {"a:", "u:p", "u:pa", "u:pas", "user:p@ss:word"}) {
    auto back = DecodeBasic(Base64(pair));
    ASSERT_TRUE(back) << pair;
    EXPECT_EQ(back->first + ":" + back->second, pair);
    std::string bare = Base64(pair);
    while (bare.ends_with('=')) bare.pop_back();
    EXPECT_TRUE(DecodeBasic(bare)) << bare;
  }
  for (const char* bad : {"", "=", "a", "!!!!", "bm9jb2xvbg==", "OnA="}) EXPECT_FALSE(DecodeBasic(bad)) << bad;
}

TEST(DockerConfig, OneNameForEachRegistry) {
  EXPECT_EQ(CanonicalRegistry("https://index.docker.io/v1/"), "docker.io");
  EXPECT_EQ(CanonicalRegistry("registry-1.docker.io"), "docker.io");
  EXPECT_EQ(CanonicalRegistry("https://Reg.Example.com:5000/v2/"), "reg.example.com:5000");
  EXPECT_EQ(CanonicalRegistry(""), "");
}

}  // namespace
}  // namespace caisson::image

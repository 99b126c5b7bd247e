// SPDX-License-Identifier: Apache-2.0
#include "image/reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caisson::image {
namespace {

using testing::HasSubstr;

const std::string kDigest = "sha256:" + std::string(64, 'a');

TEST(Reference, NormalisesAsDockerDoes) {
  const std::pair<std::string, std::string> cases[] = {
      {"busybox", "docker.io/library/busybox:latest"},
      {"busybox:1.36", "docker.io/library/busybox:1.36"},
      {"user/app", "docker.io/user/app:latest"},
      {"docker.io/busybox", "docker.io/library/busybox:latest"},
      {"index.docker.io/busybox", "docker.io/library/busybox:latest"},
      {"localhost/app", "localhost/app:latest"},
      {"localhost:5000/app:v1", "localhost:5000/app:v1"},
      {"localhost:5000", "docker.io/library/localhost:5000"},
      {"127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"},
      {"[::1]:5000/app", "[::1]:5000/app:latest"},
      {"[2001:db8::1]/app", "[2001:db8::1]/app:latest"},
      {"Registry/app", "Registry/app:latest"},
      {"quay.io/org/app@" + kDigest, "quay.io/org/app@" + kDigest},
      {"quay.io/org/app:v1@" + kDigest, "quay.io/org/app:v1@" + kDigest},
      {"a/b__c.d-e---f", "docker.io/a/b__c.d-e---f:latest"},
      {"app:_v.1-X", "docker.io/library/app:_v.1-X"},
      {"foo_bar.com/app", "foo_bar.com/app:latest"},
  };
  for (const auto& [text, full] : cases) {
    auto reference = ParseReference(text);
    ASSERT_TRUE(reference) << text << ": " << reference.error().message;
    EXPECT_EQ(reference->ToString(), full);
    // A normalised name means itself.
    auto again = ParseReference(full);
    ASSERT_TRUE(again) << full;
    EXPECT_EQ(again->ToString(), full);
  }
}

TEST(Reference, RefusesWhatIsNoName) {
  const std::string cases[] = {
      "", ":", "@", "/", "a:", "a@", ":latest", "/app", "a//b", "a/", "../etc", "a/../b", "a/..", "App", "a/B",
      "example.com/App", "-a", "a-", "a..b", "a___b", "a._b", "a b", "a\nb", std::string("a\0b", 3), "app:-x", "app:.x",
      "app:a/b", "app:" + std::string(129, 'a'), "http://example.com/app", "example.com:0/app", "example.com:65536/app",
      "example.com:/app", "example..com/app", "-example.com/app", "[::1/app", "[]/app", "[::1]x/app", "[..]/app",
      "a@sha256:abc", "a@" + kDigest + "@" + kDigest, "a@md5:" + std::string(32, 'a'), std::string(64, 'a'),
      std::string(256, 'a') , std::string(2000, 'a'), "a/" + std::string(300, 'b'), "é", "a@" + kDigest + ":tag",
      "user@example.com/app", "example.com/%2e%2e/app", "a?x=1", "a#b"};
  for (const std::string& text : cases) {
    auto reference = ParseReference(text);
    EXPECT_FALSE(reference) << text << " gave " << (reference ? reference->ToString() : "");
    if (!reference) {
      EXPECT_EQ(reference.error().code, Code::kInvalidArgument);
    }
  }
}

TEST(Reference, ErrorsNameTheRule) {
  EXPECT_THAT(ParseReference("example.com/App").error().message, HasSubstr("must be lowercase"));
  EXPECT_THAT(ParseReference(std::string(64, 'a')).error().message, HasSubstr("image id"));
  EXPECT_THAT(ParseReference("app:-x").error().message, HasSubstr("'-x' is no tag"));
  // No terminal escapes in a message.
  EXPECT_EQ(ParseReference("a\x1b[31m").error().message.find('\x1b'), std::string::npos);
}

TEST(Reference, KnowsLoopback) {
  for (const char* yes : {"localhost", "localhost:5000", "127.0.0.1", "127.8.9.10:80", "[::1]", "[::1]:5000"}) {
    EXPECT_TRUE(IsLoopbackDomain(yes)) << yes;
  }
  for (const char* no :
       {"localhost.example.com", "127.example.com", "127.0.0.1.example.com", "10.0.0.1", "docker.io"}) {
    EXPECT_FALSE(IsLoopbackDomain(no)) << no;
  }
}

}  // namespace
}  // namespace caisson::image

// SPDX-License-Identifier: Apache-2.0
#include "cri/image_message.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/json.h"

namespace caisson::cri {
namespace {

image::Image ImageOfUser(const std::string& user) {
  image::Image image;
  image.id = "sha256:1234";
  image.repo_tags = {"docker.io/library/busybox:1"};
  image.repo_digests = {"docker.io/library/busybox@sha256:5678"};
  image.size_bytes = 99;
  image.pinned = true;
  image.config.user = user;
  image.config.env = {"A=B"};
  image.diff_ids = {"sha256:aa", "sha256:bb"};
  return image;
}

TEST(ImageMessage, SaysWhatTheImageIs) {
  auto message = ImageMessage(ImageOfUser(""));
  EXPECT_EQ(message.id(), "sha256:1234");
  EXPECT_EQ(message.repo_tags(0), "docker.io/library/busybox:1");
  EXPECT_EQ(message.repo_digests(0), "docker.io/library/busybox@sha256:5678");
  EXPECT_EQ(message.size(), 99u);
  EXPECT_TRUE(message.pinned());
  EXPECT_EQ(message.spec().image(), "docker.io/library/busybox:1");
}

TEST(ImageMessage, SpecNamesWhatThereIs) {
  image::Image image = ImageOfUser("");
  image.repo_tags.clear();
  EXPECT_EQ(ImageMessage(image).spec().image(), "docker.io/library/busybox@sha256:5678");
  image.repo_digests.clear();
  EXPECT_EQ(ImageMessage(image).spec().image(), "sha256:1234");
}

TEST(ImageMessage, UserIsANumberOrANameOrNeither) {
  EXPECT_FALSE(ImageMessage(ImageOfUser("")).has_uid());
  for (const char* root : {"0", "0:0", "0:wheel"}) {
    auto message = ImageMessage(ImageOfUser(root));
    EXPECT_TRUE(message.has_uid() && message.uid().value() == 0 && message.username().empty()) << root;
  }
  EXPECT_EQ(ImageMessage(ImageOfUser("1000:1000")).uid().value(), 1000);
  for (const char* named : {"www", "www:www", "www:33"}) {
    auto message = ImageMessage(ImageOfUser(named));
    EXPECT_FALSE(message.has_uid()) << named;
    EXPECT_EQ(message.username(), "www") << named;
  }
}

TEST(ImageMessage, InfoHasConfigAndLayers) {
  auto info = ParseJson(ImageInfoJson(ImageOfUser("www")));
  ASSERT_TRUE(info);
  EXPECT_EQ((*info)["config"]["User"], "www");
  EXPECT_EQ((*info)["config"]["Env"], Json::array({"A=B"}));
  EXPECT_EQ((*info)["layers"], Json::array({"sha256:aa", "sha256:bb"}));
}

}  // namespace
}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "cri/reload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caisson::cri {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

Config Parse(const char* text) {
  auto config = ParseConfig(text, "test");
  EXPECT_TRUE(config) << config.error().message;
  return *config;
}

TEST(Reload, NothingChanged) { EXPECT_THAT(ChangedKeys(Config(), Parse("")), IsEmpty()); }

TEST(Reload, KeysAreNamedAsInTheFile) {
  auto before = Parse("log_level = \"warn\"\n[cni]\nmax_conf_files = 2\n[images]\npinned = [\"a\"]\n");
  auto after = Parse("log_level = \"debug\"\n[cni]\nmax_conf_files = 3\n[images]\npinned = [\"a\", \"b\"]\n");
  EXPECT_THAT(ChangedKeys(before, after), ElementsAre("log_level", "cni.max_conf_files", "images.pinned"));
}

TEST(Reload, LongLists) {
  Config before, after;
  for (int i = 0; i < 50; ++i) before.images.pinned.push_back("registry.example/image-" + std::to_string(i));
  after.images.pinned = before.images.pinned;
  EXPECT_THAT(ChangedKeys(before, after), IsEmpty());
  after.images.pinned.back() = "other";
  EXPECT_THAT(ChangedKeys(before, after), ElementsAre("images.pinned"));
}

TEST(Reload, HandlersComeAndGo) {
  auto before = Parse("[handlers.caisson]\n[handlers.one]\nshim_path = \"/a\"\n[handlers.gone]\n");
  auto after = Parse("[handlers.caisson]\n[handlers.one]\nshim_path = \"/b\"\n[handlers.fresh]\n");
  EXPECT_THAT(ChangedKeys(before, after), ElementsAre("handlers.fresh", "handlers.one", "handlers.gone"));
}

}  // namespace
}  // namespace caisson::cri

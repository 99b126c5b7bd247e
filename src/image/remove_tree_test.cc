// SPDX-License-Identifier: Apache-2.0
#include "image/remove_tree.h"

#include <sys/resource.h>

#include <gtest/gtest.h>

#include "base/scope_exit.h"
#include "image/tar_fixture.h"

namespace caisson::image {
namespace {

TEST(RemoveTree, RemovesEverythingAndFollowsNothing) {
  Scratch scratch;
  scratch.Write("outside/file", "kept");
  scratch.Write("tree/a/b/c/file", "x");
  scratch.Write("tree/a/b/file", "x");
  std::filesystem::create_symlink(scratch.path() + "/outside", scratch.path() + "/tree/a/link");
  std::filesystem::create_symlink("../../outside/file", scratch.path() + "/tree/a/b/link");
  std::filesystem::permissions(scratch.path() + "/tree/a/b/c", std::filesystem::perms::owner_all);
  ASSERT_EQ(mkfifo((scratch.path() + "/tree/pipe").c_str(), 0600), 0);
  auto removed = RemoveTree(scratch.path() + "/tree");
  ASSERT_TRUE(removed) << removed.error().message;
  EXPECT_FALSE(std::filesystem::exists(scratch.path() + "/tree"));
  EXPECT_EQ(ReadText(scratch.path() + "/outside/file"), "kept");
  EXPECT_TRUE(RemoveTree(scratch.path() + "/tree")) << "absent is success";
  std::filesystem::create_symlink(scratch.path() + "/outside", scratch.path() + "/link");
  EXPECT_TRUE(RemoveTree(scratch.path() + "/link"));
  EXPECT_EQ(ReadText(scratch.path() + "/outside/file"), "kept");
}

TEST(RemoveTree, DepthCostsNoDescriptors) {
  // As a container can make it: much deeper than a path can be long, and than there are descriptors.
  constexpr int kDepth = 1500;
  Scratch scratch;
  int at = open(scratch.Folder("tree").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (int i = 0; i < kDepth; ++i) {
    ASSERT_EQ(mkdirat(at, "dddd", 0755), 0);
    int file = openat(at, "f", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    ASSERT_GE(file, 0);
    close(file);
    int next = openat(at, "dddd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    close(at);
    at = next;
  }
  close(at);
  rlimit old{}, low{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  low = {128, old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  ScopeExit restore([&] { setrlimit(RLIMIT_NOFILE, &old); });
  auto usage = MeasureTree(scratch.path() + "/tree");
  ASSERT_TRUE(usage) << usage.error().message;
  auto removed = RemoveTree(scratch.path() + "/tree");
  ASSERT_TRUE(removed) << removed.error().message;
  EXPECT_FALSE(std::filesystem::exists(scratch.path() + "/tree"));
}

TEST(RemoveTree, Measures) {
  Scratch scratch;
  scratch.Write("tree/a/file", std::string(100'000, 'x'));
  std::filesystem::create_symlink("/", scratch.path() + "/tree/root");
  auto usage = MeasureTree(scratch.path() + "/tree");
  ASSERT_TRUE(usage);
  EXPECT_EQ(usage->inodes, 4u);
  EXPECT_GE(usage->bytes, 100'000u);
  EXPECT_LT(usage->bytes, 1'000'000u);
  EXPECT_FALSE(MeasureTree(scratch.path() + "/none"));
}

}  // namespace
}  // namespace caisson::image

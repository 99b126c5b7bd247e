// SPDX-License-Identifier: Apache-2.0
#include "shim/root_tree.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "sys/path.h"

namespace caisson::shim {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

class RootTreeTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root: it mounts";
    char name[] = "/tmp/caisson-root-tree-XXXXXX";
    top_ = mkdtemp(name);
    for (const char* below : {"layer1", "layer2", "upper", "work", "rootfs"}) fs::create_directory(top_ + "/" + below);
    std::ofstream(top_ + "/layer1/one") << "1";
    std::ofstream(top_ + "/layer2/two") << "2";
    std::ofstream(top_ + "/upper/new") << "3";
  }
  void TearDown() override {
    if (!top_.empty()) fs::remove_all(top_);
  }
  containerd::types::Mount Overlay() {
    containerd::types::Mount mount;
    mount.set_type("overlay");
    mount.set_source("overlay");
    mount.add_options("workdir=" + top_ + "/work");
    mount.add_options("upperdir=" + top_ + "/upper");
    mount.add_options("lowerdir=" + top_ + "/layer2:" + top_ + "/layer1");
    return mount;
  }
  static std::string Read(const UniqueFd& tree, const char* name) {
    UniqueFd file(openat(tree.get(), name, O_RDONLY | O_CLOEXEC));
    return file ? sys::ReadAll(file.get(), 100).value_or("?") : "none";
  }
  static bool IsEmpty(const std::string& folder) { return fs::directory_iterator(folder) == fs::directory_iterator(); }

  std::string top_;
};

TEST_F(RootTreeTest, IsWhatTheMountsMakeAndNobodySeesIt) {
  const std::string before = *sys::ReadFile("/proc/self/mountinfo", 1 << 20);
  {
    auto tree = OpenRootTree({Overlay()}, top_ + "/rootfs");
    ASSERT_TRUE(tree) << tree.error().message;
    EXPECT_EQ(Read(*tree, "one") + Read(*tree, "two") + Read(*tree, "new"), "123");
    EXPECT_TRUE(IsEmpty(top_ + "/rootfs"));
    EXPECT_EQ(*sys::ReadFile("/proc/self/mountinfo", 1 << 20), before);
  }
  // The mount is gone with the descriptor: its upper folder may be another's.
  ASSERT_EQ(mount("overlay", (top_ + "/rootfs").c_str(), "overlay", 0, ("workdir=" + top_ + "/work,upperdir=" + top_ + "/upper,lowerdir=" + top_ + "/layer1").c_str()), 0);
  EXPECT_EQ(umount2((top_ + "/rootfs").c_str(), 0), 0);
}

TEST_F(RootTreeTest, WithoutMountsItIsTheFolderWithWhatIsMountedInIt) {
  fs::create_directory(top_ + "/rootfs/below");
  ASSERT_EQ(mount((top_ + "/layer1").c_str(), (top_ + "/rootfs/below").c_str(), nullptr, MS_BIND, nullptr), 0);
  auto tree = OpenRootTree({}, top_ + "/rootfs");
  EXPECT_EQ(umount2((top_ + "/rootfs/below").c_str(), MNT_DETACH), 0);
  ASSERT_TRUE(tree) << tree.error().message;
  EXPECT_EQ(Read(*tree, "below/one"), "1");
}

TEST_F(RootTreeTest, WhatFailsIsNamed) {
  containerd::types::Mount wrong;
  wrong.set_type("nosuchfs");
  wrong.set_source("none");
  auto failed = OpenRootTree({wrong}, top_ + "/rootfs");
  ASSERT_FALSE(failed);
  EXPECT_THAT(failed.error().message, HasSubstr("nosuchfs"));
  wrong = Overlay();
  wrong.set_target("/etc");
  failed = OpenRootTree({wrong}, top_ + "/rootfs");
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kUnimplemented);
  EXPECT_FALSE(OpenRootTree({}, top_ + "/nothing"));
}

}  // namespace
}  // namespace caisson::shim

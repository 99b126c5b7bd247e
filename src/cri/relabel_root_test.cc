// SPDX-License-Identifier: Apache-2.0
#include "cri/relabel.h"

#include <gtest/gtest.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace caisson::cri {
namespace {

namespace fs = std::filesystem;

class RelabelTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "setting security.selinux needs root";
    char name[] = "/tmp/caisson-relabel-XXXXXX";
    root_ = mkdtemp(name);
    if (lsetxattr(root_.c_str(), "security.selinux", "x", 2, 0) != 0) GTEST_SKIP() << "no security labels on this filesystem";
  }
  void TearDown() override {
    std::error_code ignored;
    if (!root_.empty()) fs::remove_all(root_, ignored);
  }
  static std::string LabelOf(const fs::path& path) {
    char value[256] = {};
    return lgetxattr(path.c_str(), "security.selinux", value, sizeof value - 1) > 0 ? value : "";
  }
  fs::path root_;
};

TEST_F(RelabelTest, LabelsTheTreeAndFollowsNoLink) {
  fs::create_directories(root_ / "volume/a/b");
  fs::create_directories(root_ / "outside");
  std::ofstream(root_ / "volume/a/b/file") << "x";
  std::ofstream(root_ / "outside/file") << "x";
  fs::create_symlink(root_ / "outside", root_ / "volume/link");
  std::string label = FileLabel("s0:c1,c2");
  ASSERT_TRUE(Relabel(root_ / "volume", label));
  for (const char* name : {"volume", "volume/a", "volume/a/b", "volume/a/b/file", "volume/link"}) {
    EXPECT_EQ(LabelOf(root_ / name), "system_u:object_r:container_file_t:s0:c1,c2") << name;
  }
  EXPECT_EQ(LabelOf(root_ / "outside"), "");
  EXPECT_EQ(LabelOf(root_ / "outside/file"), "");
}

TEST_F(RelabelTest, LabelsASingleFile) {
  std::ofstream(root_ / "file") << "x";
  ASSERT_TRUE(Relabel(root_ / "file", FileLabel("")));
  EXPECT_EQ(LabelOf(root_ / "file"), "system_u:object_r:container_file_t:s0");
}

TEST_F(RelabelTest, RefusesTheHostsOwnFolders) {
  fs::create_symlink("/etc", root_ / "etc");
  for (const std::string& path : {std::string("/"), std::string("/etc"), std::string("/usr/"), (root_ / "etc").string()}) {
    auto done = Relabel(path, FileLabel(""));
    ASSERT_FALSE(done) << path;
    EXPECT_EQ(done.error().code, Code::kInvalidArgument);
    EXPECT_NE(done.error().message.find(path), std::string::npos);
  }
}

}  // namespace
}  // namespace caisson::cri

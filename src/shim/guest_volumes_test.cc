// SPDX-License-Identifier: Apache-2.0
#include "shim/guest_volumes.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/limits.h"

namespace caisson::shim {
namespace {

namespace fs = std::filesystem;

class KindOfVolumeTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/caisson-kind-XXXXXX";
    top_ = mkdtemp(name);
    fs::create_directories(top_ + "/plain");
    fs::create_directories(top_ + "/secret/..1");
    std::ofstream(top_ + "/secret/..1/key") << "value";
    fs::create_symlink("..1", top_ + "/secret/..data");
    fs::create_symlink("..data/key", top_ + "/secret/key");
    std::ofstream(top_ + "/file") << "x";
  }
  void TearDown() override { fs::remove_all(top_); }

  std::string top_;
};

TEST_F(KindOfVolumeTest, CopiesAreForWhatTheKubeletSwitches) {
  EXPECT_EQ(KindOfVolume(top_ + "/file", true), VolumeKind::kFile);
  EXPECT_EQ(KindOfVolume(top_ + "/file", false), VolumeKind::kFile);
  EXPECT_EQ(KindOfVolume(top_ + "/plain", true), VolumeKind::kShared);
  EXPECT_EQ(KindOfVolume(top_ + "/plain", false), VolumeKind::kShared);
  EXPECT_EQ(KindOfVolume(top_ + "/secret", true), VolumeKind::kCopied);
  EXPECT_EQ(KindOfVolume(top_ + "/secret", false), VolumeKind::kShared);
}

TEST_F(KindOfVolumeTest, WhatIsTooLargeOrOddIsShared) {
  std::ofstream(top_ + "/secret/..1/large") << std::string(limits::kVolumeCopyBytes, 'x');
  EXPECT_EQ(KindOfVolume(top_ + "/secret", true), VolumeKind::kShared);
  fs::remove(top_ + "/secret/..1/large");
  EXPECT_EQ(KindOfVolume(top_ + "/secret", true), VolumeKind::kCopied);
  ASSERT_EQ(mkfifo((top_ + "/secret/..1/fifo").c_str(), 0600), 0);
  EXPECT_EQ(KindOfVolume(top_ + "/secret", true), VolumeKind::kShared);
}

}  // namespace
}  // namespace caisson::shim

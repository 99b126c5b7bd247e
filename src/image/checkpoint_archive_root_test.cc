// SPDX-License-Identifier: Apache-2.0
#include "image/checkpoint_archive.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "sys/path.h"

namespace caisson::image {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CheckpointArchive : public ::testing::Test {
 protected:
  CheckpointArchive() {
    char name[] = "/var/tmp/caisson-checkpoint-XXXXXX";  // on a disk: a tmpfs may refuse trusted.* attributes
    folder_ = mkdtemp(name);
    for (const char* part : {"/archive", "/archive/checkpoint", "/upper", "/back"}) fs::create_directory(folder_ + part);
    Write("/archive/config.dump", R"({"rootfsImageRef": "sha256:1", "rootfsImageName": "a/b:1", "more": [1]})");
    Write("/archive/checkpoint/inventory.img", "i");
  }
  ~CheckpointArchive() override { fs::remove_all(folder_); }

  void Write(const std::string& path, const std::string& text) { std::ofstream(folder_ + path) << text; }
  std::string Read(const std::string& path) { return sys::ReadFile(folder_ + path, 1 << 20).value_or("<none>"); }
  std::string tar() const { return folder_ + "/c.tar"; }

  Result<CheckpointConfig> Again() {
    auto packed = PackFolder(folder_ + "/archive", tar());
    if (!packed) return std::move(packed.error());
    return UnpackCheckpoint(tar(), folder_ + "/unpacked");
  }
  std::string Refusal() {
    auto unpacked = Again();
    return unpacked ? "" : unpacked.error().message;
  }

  std::string folder_;
};

TEST_F(CheckpointArchive, GoesThereAndBack) {
  auto config = Again();
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->image_ref, "sha256:1");
  EXPECT_EQ(config->image_name, "a/b:1");
  EXPECT_EQ(Read("/unpacked/checkpoint/inventory.img"), "i");
  struct stat info {};
  ASSERT_EQ(stat(tar().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  EXPECT_FALSE(PackFolder(folder_ + "/archive", tar()));  // never over another file
}

TEST_F(CheckpointArchive, AWritableLayerKeepsWhatOverlayKnows) {
  std::string upper = folder_ + "/upper";
  Write("/upper/file", "text");
  ASSERT_EQ(chmod((upper + "/file").c_str(), 04755), 0);
  ASSERT_EQ(chown((upper + "/file").c_str(), 12, 34), 0);
  ASSERT_EQ(chmod((upper + "/file").c_str(), 04755), 0);
  ASSERT_EQ(link((upper + "/file").c_str(), (upper + "/twin").c_str()), 0);
  ASSERT_EQ(symlink("/etc/passwd", (upper + "/link").c_str()), 0);
  ASSERT_EQ(mkdir((upper + "/opaque").c_str(), 0750), 0);
  Write("/upper/opaque/inner", "x");
  ASSERT_EQ(setxattr((upper + "/opaque").c_str(), "trusted.overlay.opaque", "y", 1, 0), 0);
  ASSERT_EQ(mknod((upper + "/gone").c_str(), S_IFCHR, 0), 0);
  ASSERT_EQ(mkfifo((upper + "/fifo").c_str(), 0600), 0);
  auto packed = PackLayer(upper, folder_ + "/archive/rootfs-diff.tar");
  ASSERT_TRUE(packed) << packed.error().message;
  ASSERT_TRUE(Again());
  auto unpacked = UnpackWritableLayer(folder_ + "/unpacked", folder_ + "/back", {});
  ASSERT_TRUE(unpacked) << unpacked.error().message;
  EXPECT_EQ(Read("/back/file"), "text");
  struct stat info {}, twin {};
  ASSERT_EQ(lstat((folder_ + "/back/file").c_str(), &info), 0);
  ASSERT_EQ(lstat((folder_ + "/back/twin").c_str(), &twin), 0);
  EXPECT_EQ(info.st_ino, twin.st_ino);
  EXPECT_EQ(std::make_tuple(info.st_mode & 07777, info.st_uid, info.st_gid), std::make_tuple(04755u, 12u, 34u));
  EXPECT_EQ(fs::read_symlink(folder_ + "/back/link"), "/etc/passwd");
  EXPECT_EQ(Read("/back/opaque/inner"), "x");
  char mark = 0;
  EXPECT_EQ(getxattr((folder_ + "/back/opaque").c_str(), "trusted.overlay.opaque", &mark, 1), 1);
  ASSERT_EQ(lstat((folder_ + "/back/gone").c_str(), &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode) && info.st_rdev == 0);
  ASSERT_EQ(lstat((folder_ + "/back/fifo").c_str(), &info), 0);
  EXPECT_TRUE(S_ISFIFO(info.st_mode));
}

TEST_F(CheckpointArchive, NoWritableLayerIsNone) {
  ASSERT_TRUE(Again());
  EXPECT_TRUE(UnpackWritableLayer(folder_ + "/unpacked", folder_ + "/back", {}));
}

TEST_F(CheckpointArchive, ImagesThatAreNoFiles) {
  ASSERT_EQ(symlink("/etc/shadow", (folder_ + "/archive/checkpoint/pages-1.img").c_str()), 0);
  EXPECT_THAT(Refusal(), HasSubstr("pages-1.img"));
}

TEST_F(CheckpointArchive, ImagesWithSeveralNames) {
  fs::create_hard_link(folder_ + "/archive/checkpoint/inventory.img", folder_ + "/archive/checkpoint/restore.log");
  EXPECT_THAT(Refusal(), HasSubstr("is no plain file"));
}

TEST_F(CheckpointArchive, AFolderOfImagesThatIsALink) {
  fs::remove_all(folder_ + "/archive/checkpoint");
  fs::create_symlink("/etc", folder_ + "/archive/checkpoint");
  EXPECT_THAT(Refusal(), HasSubstr("no folder 'checkpoint'"));
}

TEST_F(CheckpointArchive, ConfigurationsThatAreNone) {
  for (const char* text : {"", "{", "[]", R"({"rootfsImageRef": 7})", R"({"rootfsImageName": {}})"}) {
    Write("/archive/config.dump", text);
    EXPECT_NE(Refusal(), "") << text;
    fs::remove_all(folder_ + "/unpacked");
    fs::remove(tar());
  }
  fs::remove(folder_ + "/archive/config.dump");
  fs::create_symlink("/etc/hostname", folder_ + "/archive/config.dump");
  EXPECT_THAT(Refusal(), HasSubstr("config.dump"));
}

TEST_F(CheckpointArchive, WhatIsNoArchive) {
  EXPECT_EQ(UnpackCheckpoint(folder_ + "/absent", folder_ + "/unpacked").error().code, Code::kNotFound);
  EXPECT_EQ(UnpackCheckpoint(folder_ + "/upper", folder_ + "/unpacked").error().code, Code::kInvalidArgument);
  fs::create_symlink("/etc/passwd", folder_ + "/linked");
  EXPECT_EQ(UnpackCheckpoint(folder_ + "/linked", folder_ + "/unpacked").error().code, Code::kInvalidArgument);
  ASSERT_EQ(mkfifo((folder_ + "/fifo").c_str(), 0600), 0);
  EXPECT_EQ(UnpackCheckpoint(folder_ + "/fifo", folder_ + "/unpacked").error().code, Code::kInvalidArgument);
  Write("/noise", std::string(5000, 'n'));
  EXPECT_FALSE(UnpackCheckpoint(folder_ + "/noise", folder_ + "/unpacked"));
  EXPECT_FALSE(fs::exists(folder_ + "/unpacked/checkpoint"));
}

}  // namespace
}  // namespace caisson::image

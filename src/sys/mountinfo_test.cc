// SPDX-License-Identifier: Apache-2.0
#include "sys/mountinfo.h"

#include <gtest/gtest.h>

namespace caisson::sys {
namespace {

TEST(MountInfo, ParsesEveryField) {
  auto mount = ParseMountInfoLine(
      "36 35 98:0 /mnt1 /a\\040b\\134c rw,noatime shared:12 master:1 - ext3 /dev/r\\011t rw,errors=continue");
  ASSERT_TRUE(mount) << mount.error().message;
  EXPECT_EQ(mount->id, 36);
  EXPECT_EQ(mount->parent, 35);
  EXPECT_EQ(mount->major, 98u);
  EXPECT_EQ(mount->root, "/mnt1");
  EXPECT_EQ(mount->mount_point, "/a b\\c");
  EXPECT_EQ(mount->options, "rw,noatime");
  EXPECT_EQ(mount->optional, (std::vector<std::string>{"shared:12", "master:1"}));
  EXPECT_EQ(mount->fs_type, "ext3");
  EXPECT_EQ(mount->source, "/dev/r\tt");
  EXPECT_EQ(mount->super_options, "rw,errors=continue");
}

TEST(MountInfo, EmptySourceIsKept) {
  auto mount = ParseMountInfoLine("1 2 0:3 / /x rw - tmpfs  rw");
  ASSERT_TRUE(mount);
  EXPECT_EQ(mount->source, "");
  EXPECT_EQ(mount->super_options, "rw");
}

TEST(MountInfo, RefusesMalformedLines) {
  for (const char* line : {"", " ", "1", "x 2 0:3 / /x rw - tmpfs t rw", "1 2 03 / /x rw - tmpfs t rw",
                           "1 2 0:4294967296 / /x rw - tmpfs t rw", "1 2 0:3 / /x rw tmpfs t rw", "1 2 0:3 / /x rw - ",
                           "1 2 0:3   rw - tmpfs t rw"}) {
    EXPECT_FALSE(ParseMountInfoLine(line)) << line;
  }
  auto table = ParseMountInfo("1 2 0:3 / /x rw - tmpfs t rw\nrubbish\n");
  ASSERT_FALSE(table);
  EXPECT_NE(table.error().message.find("line 2"), std::string::npos);
}

TEST(MountInfo, ReadsOurOwn) {
  auto mounts = ReadMountInfo();
  ASSERT_TRUE(mounts) << mounts.error().message;
  EXPECT_FALSE(mounts->empty());
  EXPECT_EQ(ReadMountInfo("/nonexistent").error().code, Code::kNotFound);
}

}  // namespace
}  // namespace caisson::sys

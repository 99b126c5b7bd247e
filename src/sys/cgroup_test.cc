// SPDX-License-Identifier: Apache-2.0
#include "sys/cgroup.h"

#include <gtest/gtest.h>

namespace caisson::sys {
namespace {

using Names = std::vector<std::string>;

std::vector<CgroupMount> From(std::string_view table) {
  auto mounts = ParseMountInfo(table);
  EXPECT_TRUE(mounts);
  return CgroupMounts(*mounts);
}

TEST(CgroupMounts, Hybrid) {
  auto mounts = From(
      "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
      "33 31 0:30 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory\n"
      "34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd\n"
      "35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
      "36 31 0:33 / /tmp rw - tmpfs cgroup rw,cpu\n");
  ASSERT_EQ(mounts.size(), 4u);
  EXPECT_EQ(mounts[0].controllers, (Names{"cpu", "cpuacct"}));
  EXPECT_EQ(mounts[2].controllers, Names{"name=systemd"});
  EXPECT_TRUE(mounts[3].v2);
  EXPECT_EQ(ModeOf(mounts), CgroupMode::kHybrid);
}

TEST(CgroupMounts, OneMountOfEachHierarchy) {
  auto mounts = From(
      "1 0 0:29 /docker/x /elsewhere rw - cgroup cgroup rw,cpu\n"
      "2 0 0:29 / /other rw - cgroup cgroup rw,cpu\n"
      "3 0 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
      "4 0 0:29 / /later rw - cgroup cgroup rw,cpu\n");
  ASSERT_EQ(mounts.size(), 1u);
  EXPECT_EQ(mounts[0].mount_point, "/sys/fs/cgroup/cpu");
}

TEST(CgroupMounts, Modes) {
  EXPECT_EQ(ModeOf({}), CgroupMode::kNone);
  EXPECT_EQ(ModeOf(From("1 0 0:29 / /sys/fs/cgroup rw - cgroup2 c rw\n")), CgroupMode::kV2);
  EXPECT_EQ(ModeOf(From("1 0 0:29 / /sys/fs/cgroup/cpu rw - cgroup c rw,cpu\n")), CgroupMode::kV1);
  EXPECT_EQ(ModeOf(From("1 0 0:29 / /s/systemd rw - cgroup c rw,name=systemd\n2 0 0:30 / /s rw - cgroup2 c rw\n")),
            CgroupMode::kV2);
}

TEST(CgroupMembership, Parses) {
  auto all = ParseCgroupMembership("9:name=systemd:/a:b\n2:cpu,cpuacct:/x\n0::/\n");
  ASSERT_TRUE(all);
  ASSERT_EQ(all->size(), 3u);
  EXPECT_EQ((*all)[0].path, "/a:b");
  EXPECT_EQ((*all)[1].controllers, (Names{"cpu", "cpuacct"}));
  EXPECT_TRUE((*all)[2].controllers.empty());
}

TEST(CgroupMembership, RefusesMalformedLines) {
  for (const char* text : {"x", "1:cpu", "1:cpu:", "1:cpu:x", "-1:cpu:/", ":cpu:/", "99999999:cpu:/", "\n"}) {
    EXPECT_FALSE(ParseCgroupMembership(text)) << text;
  }
}

TEST(CgroupMembership, ReadsOurOwn) { EXPECT_TRUE(ReadCgroupMembership()); }

}  // namespace
}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
#include "oci/mounts.h"

#include <gtest/gtest.h>
#include <sys/mount.h>

#include "oci/overlay.h"

namespace caisson::oci {
namespace {

TEST(PlanMount, WordsToFlags) {
  auto plan =
      PlanMount("/x", "tmpfs", "tmpfs", {"nosuid", "ro", "noatime", "mode=755", "size=1m", "defaults", "", "uid=5"});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->kind, MountKind::kFileSystem);
  EXPECT_EQ(plan->flags, static_cast<unsigned long>(MS_NOSUID | MS_RDONLY | MS_NOATIME));
  EXPECT_EQ(plan->data, "mode=755,size=1m,uid=5");
}

TEST(PlanMount, LastWordWins) {
  auto plan = PlanMount("/x", "bind", "/y", {"ro", "rw", "suid", "nosuid"});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->flags, static_cast<unsigned long>(MS_NOSUID));
  EXPECT_EQ(plan->clear_flags, static_cast<unsigned long>(MS_RDONLY));
}

TEST(PlanMount, RecursiveWords) {
  auto plan = PlanMount("/x", "none", "/y", {"rbind", "rro", "rnoexec", "rsuid", "rprivate"});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->kind, MountKind::kBind);
  EXPECT_TRUE(plan->recursive);
  EXPECT_EQ(plan->flags, 0u);
  EXPECT_EQ(plan->recursive_set, static_cast<unsigned long>(MS_RDONLY | MS_NOEXEC));
  EXPECT_EQ(plan->recursive_clear, static_cast<unsigned long>(MS_NOSUID));
  EXPECT_EQ(plan->propagation, static_cast<unsigned long>(MS_PRIVATE | MS_REC));
}

TEST(MountsTest, TmpfsMayBeginWithWhatItCovers) {
  auto plan = PlanMount("/run", "tmpfs", "tmpfs", {"tmpcopyup", "size=1m"});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_TRUE(plan->copy_up);
  EXPECT_EQ(plan->data, "size=1m");
  EXPECT_FALSE(PlanMount("/run", "tmpfs", "tmpfs", {"size=1m"})->copy_up);
}

TEST(PlanMount, Refuses) {
  EXPECT_FALSE(PlanMount("/x", "bind", "", {}));
  auto copied = PlanMount("/x", "bind", "/y", {"copy-symlink"});
  ASSERT_FALSE(copied);
  EXPECT_EQ(copied.error().code, Code::kUnimplemented);
  EXPECT_FALSE(PlanMount("/x", "overlay", "overlay", {"uidmap=0:1"}));
  EXPECT_FALSE(PropagationFlag("rsomething"));
}

TEST(PlanMount, FlagsInWords) {
  EXPECT_EQ(DescribeFlags(MS_RDONLY | MS_NOSUID | MS_NOEXEC), "ro,nosuid,noexec");
  EXPECT_EQ(DescribeFlags(MS_SLAVE | MS_REC), "rslave");
  EXPECT_EQ(DescribeFlags(MS_SHARED), "shared");
  EXPECT_EQ(DescribeFlags(0), "");
}

TEST(PlanMount, AnImageIsReadOnlyWhateverIsSaid) {
  auto plan = PlanMount("/data", "caisson-image", "name", {"rw", "noexec", "lowerdir=/l/2:/l/1", "subpath=a,b:c", "rprivate"});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(plan->kind, MountKind::kImage);
  EXPECT_EQ(plan->flags, static_cast<unsigned long>(MS_RDONLY | MS_NOEXEC));
  EXPECT_EQ(plan->clear_flags, 0u);
  EXPECT_EQ(plan->data, "lowerdir=/l/2:/l/1");
  EXPECT_EQ(plan->sub_path, "a,b:c");
  EXPECT_EQ(plan->propagation, static_cast<unsigned long>(MS_PRIVATE | MS_REC));
}

TEST(PlanMount, AnImageWithoutLayersIsNone) {
  auto plan = PlanMount("/data", "caisson-image", "name", {"ro"});
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, Code::kInvalidArgument);
}

TEST(PlanMount, ASubPathIsOfImagesOnly) {
  auto plan = PlanMount("/data", "tmpfs", "tmpfs", {"subpath=a"});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->sub_path, "");
  EXPECT_EQ(plan->data, "subpath=a");
}

TEST(Overlay, LowerDirsRelativeToWhatTheyShare) {
  auto options = ShortenLowerDirs("index=off,lowerdir=/var/l/a/fs:/var/l/b/fs,upperdir=/var/l/u");
  EXPECT_EQ(options.folder, "/var/l/");
  EXPECT_EQ(options.data, "index=off,lowerdir=a/fs:b/fs,upperdir=/var/l/u");
  options = ShortenLowerDirs("lowerdir=/var/one");
  EXPECT_EQ(options.folder, "/var/");
  EXPECT_EQ(options.data, "lowerdir=one");
}

TEST(Overlay, NothingSharedIsLeftAlone) {
  for (const char* data : {"lowerdir=/a:/b", "lowerdir=/a:b", "lowerdir=a:/b", "lowerdir=a:b",
                           "lowerdir=", "lowerdir=/", "upperdir=/u,workdir=/w", ""}) {
    auto options = ShortenLowerDirs(data);
    EXPECT_EQ(options.folder, "") << data;
    EXPECT_EQ(options.data, data);
  }
}

TEST(Overlay, EscapedSeparators) {
  auto options = ShortenLowerDirs("lowerdir=/v/a\\:b/x:/v/c\\,d/x");
  EXPECT_EQ(options.folder, "/v/");
  EXPECT_EQ(options.data, "lowerdir=a\\:b/x:c\\,d/x");
}

}  // namespace
}  // namespace caisson::oci

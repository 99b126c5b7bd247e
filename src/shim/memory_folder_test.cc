// SPDX-License-Identifier: Apache-2.0
#include "shim/memory_folder.h"

#include <gtest/gtest.h>

namespace caisson::shim {
namespace {

constexpr char kTable[] =
    "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
    "2 1 0:40 / /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/cache rw - tmpfs tmpfs rw,size=4096k\n"
    "3 1 0:40 /a/b /var/lib/kubelet/pods/u/volume-subpaths/cache/c/0 rw - tmpfs tmpfs rw\n"
    "4 1 0:41 / /var/lib/kubelet/pods/u/volumes/kubernetes.io~secret/s rw - tmpfs tmpfs rw\n"
    "5 1 0:42 / /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/cache/below rw - tmpfs tmpfs rw\n"
    "6 1 0:43 / /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/huge rw - hugetlbfs nodev rw\n";
constexpr char kPods[] = "/var/lib/kubelet/pods/u/";

std::string Find(const std::string& path, uint32_t minor) {
  auto found = FindMemoryFolder(kPods + path, 0, minor, *sys::ParseMountInfo(kTable));
  if (!found) return "none";
  EXPECT_EQ(found->volume, std::string(kPods) + "volumes/kubernetes.io~empty-dir/cache");
  return "/" + found->below;
}

TEST(MemoryFolder, IsFoundByWhateverPath) {
  EXPECT_EQ(Find("volumes/kubernetes.io~empty-dir/cache", 40), "/");
  EXPECT_EQ(Find("volumes/kubernetes.io~empty-dir/cache/x/y", 40), "/x/y");
  EXPECT_EQ(Find("volume-subpaths/cache/c/0", 40), "/a/b");
  EXPECT_EQ(Find("volume-subpaths/cache/c/0/more", 40), "/a/b/more");
}

TEST(MemoryFolder, OthersAreNone) {
  EXPECT_EQ(Find("volumes/kubernetes.io~secret/s", 41), "none");
  EXPECT_EQ(Find("volumes/kubernetes.io~empty-dir/cache/below", 42), "none") << "somebody's mount below one";
  EXPECT_EQ(Find("volumes/kubernetes.io~empty-dir/huge", 43), "none");
  EXPECT_EQ(Find("volumes/kubernetes.io~empty-dir/cachet", 40), "none");
  EXPECT_EQ(Find("volumes/kubernetes.io~empty-dir/other", 44), "none");
}

}  // namespace
}  // namespace caisson::shim

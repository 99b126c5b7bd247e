// SPDX-License-Identifier: Apache-2.0
#include "base/cgroup_path.h"

#include <gtest/gtest.h>

namespace caisson {
namespace {

TEST(CgroupsPath, InBothForms) {
  EXPECT_EQ(CgroupsPath("/kubepods/pod1", false, "p", "c"), "/kubepods/pod1/c");
  EXPECT_EQ(CgroupsPath("", false, "p", "c"), "/caisson/c");
  EXPECT_EQ(CgroupsPath("/kubepods.slice/kubepods-pod1.slice", true, "p", "c"), "kubepods-pod1.slice:p:c");
  EXPECT_EQ(CgroupsPath("kubepods-pod1.slice", true, "p", "c"), "kubepods-pod1.slice:p:c");
  EXPECT_EQ(CgroupsPath("", true, "p", "c"), "system.slice:p:c");
}

}  // namespace
}  // namespace caisson

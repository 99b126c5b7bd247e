// SPDX-License-Identifier: Apache-2.0
#include "sys/sysctl.h"

#include <gtest/gtest.h>

namespace caisson::sys {
namespace {

TEST(PodSysctl, OnlyNamespacedOnesOfThePodsOwn) {
  EXPECT_TRUE(CheckPodSysctl("net.ipv4.ip_local_port_range", "1024 65000", false, false));
  EXPECT_TRUE(CheckPodSysctl("net/ipv4/conf/eth0.1/forwarding", "1", false, false));
  EXPECT_TRUE(CheckPodSysctl("kernel.shm_rmid_forced", "1", true, false));
  EXPECT_TRUE(CheckPodSysctl("fs.mqueue.msg_max", "100", false, false));
  EXPECT_FALSE(CheckPodSysctl("net.core.somaxconn", "1", true, false));
  EXPECT_FALSE(CheckPodSysctl("kernel.shmmax", "1", false, true));
  for (const char* name : {"vm.swappiness", "kernel.core_pattern", "kernel.hostname", "kernel.shm_rmid_forced+kernel.core_pattern",
                           "net.ipv4=x", "net.a b", "", "/proc", "net/../kernel/core_pattern", "kernel/../x", "fs.file-max"}) {
    EXPECT_FALSE(CheckPodSysctl(name, "1", false, false)) << name;
  }
  EXPECT_FALSE(CheckPodSysctl("net.core.somaxconn", "1\nkernel.core_pattern=|/x", false, false));
}

}  // namespace
}  // namespace caisson::sys

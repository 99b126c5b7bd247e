// SPDX-License-Identifier: Apache-2.0
#include "sys/sysctl.h"

#include <gtest/gtest.h>

namespace caisson::sys {
namespace {

TEST(Sysctl, FilesOfNames) {
  EXPECT_EQ(SysctlFile("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
  EXPECT_EQ(SysctlFile("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
  EXPECT_EQ(SysctlFile("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
}

TEST(Sysctl, OnlyThePodsOwn) {
  EXPECT_TRUE(CheckPodSysctl("net.ipv4.ip_local_port_range", "1024 65535", false, false));
  EXPECT_TRUE(CheckPodSysctl("net.core.somaxconn", "100", false, true));
  EXPECT_TRUE(CheckPodSysctl("kernel.shm_rmid_forced", "1", true, false));
  EXPECT_TRUE(CheckPodSysctl("fs.mqueue.msg_max", "10", false, false));
  EXPECT_FALSE(CheckPodSysctl("net.core.somaxconn", "100", true, false));
  EXPECT_FALSE(CheckPodSysctl("kernel.sem", "1 2 3 4", false, true));
  for (const char* name : {"kernel.core_pattern", "kernel.hostname", "vm.swappiness", "fs.file-max", "kernel.shmmaxx", "net", "kernel"}) {
    EXPECT_EQ(CheckPodSysctl(name, "1", false, false).error().code, Code::kInvalidArgument) << name;
  }
}

TEST(Sysctl, NamesAndValuesThatAreNotWhatTheySeem) {
  for (const char* name : {"", "net..ipv4", "net/../kernel/core_pattern", "net.//kernel", "net/ipv4/", "/net/ipv4", ".net",
                           "net.ipv4+kernel.core_pattern", "net.ipv4=1", "net ipv4", "net.ipv4\n", "net/./x"}) {
    EXPECT_FALSE(CheckPodSysctl(name, "1", false, false)) << name;
  }
  // In the dotted form "/" stands for a dot within a component.
  EXPECT_EQ(SysctlFile("net.//.kernel.core_pattern"), "net/../kernel/core_pattern");
  EXPECT_FALSE(CheckPodSysctl("net.//.kernel.core_pattern", "1", false, false));
  EXPECT_FALSE(CheckPodSysctl("net.ipv4.ip_forward", "1\nkernel.core_pattern=|/evil", false, false));
  EXPECT_FALSE(CheckPodSysctl("net.ipv4.ip_forward", std::string("1\0x", 3), false, false));
  EXPECT_FALSE(CheckPodSysctl("net.ipv4.ip_forward", std::string(5000, '1'), false, false));
  // Written as it is, so "+" and "=" in a value do no harm.
  EXPECT_TRUE(CheckPodSysctl("net.ipv4.ip_local_reserved_ports", "1+kernel.core_pattern=x", false, false));
}

}  // namespace
}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
//
// Kernel parameters of a pod (sysctl(8)): which ones it may set, and how. No state.
#pragma once

#include <string>

#include "base/result.h"

namespace caisson::sys {

// kInvalidArgument naming the sysctl unless it is namespaced, has a name and value that are what they seem (no second
// line, no "..": CVE-2022-0811), and its namespace is the pod's own (sysctl(8), namespaces(7)).
Result<> CheckPodSysctl(const std::string& name, const std::string& value, bool host_network, bool host_ipc);
// Its file below /proc/sys: "net.ipv4.ip_forward" is net/ipv4/ip_forward; "net.ipv4.conf.eth0/1.mtu" and
// "net/ipv4/conf/eth0.1/mtu" are net/ipv4/conf/eth0.1/mtu (sysctl.d(5): the first separator decides).
std::string SysctlFile(const std::string& name);
// Writes one that was checked, for the namespaces that the calling process is in.
Result<> WriteSysctl(const std::string& name, const std::string& value);

}  // namespace caisson::sys

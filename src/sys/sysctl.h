// SPDX-License-Identifier: Apache-2.0
//
// Which sysctls a pod may set. Pure.
#pragma once

#include <string>

#include "base/result.h"

namespace caisson::sys {

// kInvalidArgument naming the sysctl unless it is namespaced, has a name and value that are what they seem (no second
// line, no "..": CVE-2022-0811), and its namespace is the pod's own (sysctl(8), namespaces(7)).
Result<> CheckPodSysctl(const std::string& name, const std::string& value, bool host_network, bool host_ipc);

}  // namespace caisson::sys

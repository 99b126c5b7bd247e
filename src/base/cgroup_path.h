// SPDX-License-Identifier: Apache-2.0
//
// The cgroupsPath of the runtime-spec (config-linux.md "Control groups"), in either of its forms. Pure.
#pragma once

#include <string>
#include <string_view>

namespace caisson {

// Of `leaf` below the kubelet's cgroup `parent`: a path, "/caisson" the parent where there is none; for systemd "slice:prefix:leaf", where
// systemd wants the slice's own name ("/kubepods.slice/kubepods-pod1.slice" is "kubepods-pod1.slice"), system.slice where there is none.
std::string CgroupsPath(std::string_view parent, bool systemd, std::string_view prefix, std::string_view leaf);

}  // namespace caisson

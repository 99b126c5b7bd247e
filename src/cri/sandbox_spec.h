// SPDX-License-Identifier: Apache-2.0
//
// A pod sandbox's CRI configuration to what its companion is told. Pure but for uname(2).
#pragma once

#include "caisson/pod/v1/pod.pb.h"
#include "cri/config.h"
#include "cri/v1/api.pb.h"

namespace caisson::cri {

// kInvalidArgument naming the field for what cannot be; kUnimplemented for what is not supported yet.
Result<> CheckSandboxConfig(const runtime::v1::PodSandboxConfig& pod, bool systemd_cgroup);
// Of a configuration that has been checked.
pod::v1::SandboxOptions SandboxOptionsOf(const Config& config, const runtime::v1::PodSandboxConfig& pod, bool systemd_cgroup);
// kInvalidArgument for a cgroup_parent that leads elsewhere ("..", NUL) or, with the systemd driver, is no slice.
Result<> CheckCgroupParent(const std::string& parent, bool systemd_cgroup);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// OCI configurations for another project's shim: that of the container which it makes for the pod itself, as containerd's CRI
// plugin has it, and those that caissond makes, without what only this project's launcher knows. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "caisson/pod/v1/pod.pb.h"

namespace caisson::shim {

// Where the sandbox container's only file is, in it.
inline constexpr char kPauseProgram[] = "/pause";

struct SandboxContainer {
  std::string id;
  std::string program;      // on the host: this program, which waits there as `pause`
  std::string cgroup_path;  // linux.cgroupsPath
  int companion = 0;        // the process that lives in the pod's namespaces
  std::string shm;          // where the pod's /dev/shm is mounted
};
// The configuration of the sandbox container. It has a PID namespace of its own, and the pod's others.
std::string SandboxContainerSpec(const SandboxContainer& container, const pod::v1::SandboxOptions& options);

struct ForeignSpec {
  std::string json;          // the configuration
  std::string process;       // its `process`, JSON
  std::string cgroup_path;   // linux.cgroupsPath
};
// `shm`: the folder where the pod's /dev/shm is mounted. Errors: kInvalidArgument for what is no configuration, kUnimplemented naming the mount
// that no other runtime can make.
Result<ForeignSpec> MakeForeignSpec(std::string_view config_json, const std::string& shm);

// A process to be run in a container, JSON of the runtime-spec, with the limits that this process may give.
Result<std::string> MakeForeignProcess(const std::string& process);
// The process of a container with other arguments and without a terminal, JSON.
Result<std::string> ProcessWithArgs(const std::string& process, const std::vector<std::string>& args);

// Where a group of the pod's besides its containers' is: as linux.cgroupsPath, with `leaf` as its name.
std::string CgroupBesideContainers(const pod::v1::SandboxOptions& options, const std::string& leaf);

}  // namespace caisson::shim

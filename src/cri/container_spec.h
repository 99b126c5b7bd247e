// SPDX-License-Identifier: Apache-2.0
//
// A container's CRI configuration, its image's configuration and facts of its pod to an OCI runtime-spec configuration.
// The companion (or another shim) carries it out; here everything is decided. Pure but for looking at host paths that the
// configuration names (devices, seccomp files, mount sources) and at the image's /etc/passwd.
#pragma once

#include <string>
#include <vector>

#include "cri/config.h"
#include "cri/container_index.h"
#include "cri/pod_index.h"
#include "image/image_store.h"

namespace caisson::cri {

struct ContainerSpecInputs {
  const Config& config;
  const PodRecord& pod;
  const ContainerRecord& container;        // id and config are set
  const image::Image& image;
  const std::vector<std::string>& lower_dirs;
  std::string pod_dir;                     // where WritePodFiles wrote
  uint32_t target_pid = 0;                 // init of the container whose PID namespace is joined (NamespaceMode TARGET)
  bool systemd_cgroup = false;
  bool cgroup_namespace = false;           // on cgroup v2: the container sees its own group as the root
  // The layers of image volumes, by their place in the config's mounts; nothing for other mounts.
  std::vector<std::vector<std::string>> image_volumes = {};
};

struct ContainerSpec {
  std::string json;
  std::string cgroup_path;                 // linux.cgroupsPath
  runtime::v1::LinuxContainerUser user;    // effective
};

// Errors: kInvalidArgument naming the field; kNotFound naming a user, group, device or file; kUnimplemented for what is not
// supported yet.
Result<ContainerSpec> BuildContainerSpec(const ContainerSpecInputs& inputs);

// linux.resources of the spec as JSON.
Result<std::string> ResourcesJson(const Config& config, const runtime::v1::LinuxContainerResources& resources, bool vm);
// The CRI's updates: what one leaves at its zero value stays as it is.
void MergeResources(const runtime::v1::LinuxContainerResources& update, runtime::v1::LinuxContainerResources* resources);
// linux.cgroupsPath for a container of a pod with this cgroup_parent.
std::string CgroupPath(const std::string& parent, const std::string& container_id, bool systemd);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// The parts that container_spec.cc puts together, a file each. JSON is nlohmann's.
#pragma once

#include <nlohmann/json.hpp>

#include "cri/container_spec.h"
#include "cri/user_namespace.h"
#include "sys/user.h"

namespace caisson::cri {

// container_process.cc: process.args, env, cwd.
Result<nlohmann::json> ArgsOf(const runtime::v1::ContainerConfig& config, const image::ImageConfig& image);
Result<nlohmann::json> EnvironmentOf(const ContainerSpecInputs& inputs, const std::string& home);

// container_mounts.cc: mounts, and what root propagation they need.
struct MountsPart {
  nlohmann::json mounts = nlohmann::json::array();
  std::string rootfs_propagation;
};
Result<MountsPart> MountsOf(const ContainerSpecInputs& inputs);

// runtime-spec config-linux.md "User namespace mappings".
nlohmann::json MappingsJson(const IdMappings& mappings);

// container_devices.cc: linux.devices and the device rules of linux.resources. Nobody makes nodes in a user namespace:
// there the host's are mounted. In a VM there are none of the host's.
struct DevicesPart {
  nlohmann::json devices = nlohmann::json::array(), rules = nlohmann::json::array(), mounts = nlohmann::json::array();
};
Result<DevicesPart> DevicesOf(const runtime::v1::ContainerConfig& config, bool user_namespace, bool vm);

// container_resources.cc.
Result<nlohmann::json> ResourcesOf(const Config& config, const runtime::v1::LinuxContainerResources& resources, bool vm);

}  // namespace caisson::cri

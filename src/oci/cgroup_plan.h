// SPDX-License-Identifier: Apache-2.0
//
// What to write into which cgroup file for linux.resources: pure decisions, carried out by cgroup_v1.cc and cgroup_v2.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/cgroup.h"

namespace caisson::oci {

struct CgroupWrite {
  std::string controller;  // v1: whose hierarchy; v2: informational
  std::string file, value;
  // The host need not have the file: what it limits is left out. Never set for what a pod's isolation rests on.
  bool optional = false;
  std::string read_back;  // not empty: the file must hold this afterwards, else the kernel has changed the value
  // EINVAL and EBUSY are remembered, the write is tried again at the end of the plan (two limits that only
  // hold together, of which the first was refused because of the other's old value).
  bool retry_last = false;
};

// What plans depend on. `has` says whether the group has a file (path relative to the controller's directory).
struct CgroupView {
  std::function<bool(std::string_view controller)> has_controller;
  std::function<bool(std::string_view controller, const std::string& file)> has_file;
  std::optional<uint64_t> memory_usage;  // asked for only when check_before_update needs it
  uint64_t memsw_limit = UINT64_MAX;     // v1, now
  std::string cpu_quota = "max";         // v2, now: first word of cpu.max
  uint64_t page_size = 4096;
};

// "/a//b", "..", "." and NULs are refused; the result has no leading or trailing '/'. Errors: kInvalidArgument.
Result<std::string> CleanCgroupPath(std::string_view path);

Result<std::vector<CgroupWrite>> PlanV1(const Resources& resources, const CgroupView& view);
// The files of resources.unified come last. Device rules are not part of it (see cgroup_device_bpf.h).
Result<std::vector<CgroupWrite>> PlanV2(const Resources& resources, const CgroupView& view);

// v1 device rules as lines for devices.allow and devices.deny, in order.
Result<std::vector<CgroupWrite>> PlanV1Devices(const std::vector<Resources::DeviceRule>& rules);

// cpu.shares (2 to 262144) to cpu.weight (1 to 10000) so that both ends and the defaults (1024, 100) meet: the quadratic
// in log2 that the runtimes agreed on in 2025 (kubernetes/kubernetes issue 131216).
uint64_t CpuWeightOfShares(uint64_t shares);
// blkio weight (10 to 1000) to io.weight (1 to 10000), linearly.
uint64_t IoWeightOfBlkio(uint64_t weight);

}  // namespace caisson::oci

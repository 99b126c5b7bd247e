// SPDX-License-Identifier: Apache-2.0
//
// CgroupV1: a group on a host whose controllers are on cgroup v1, with the named systemd hierarchy and, in hybrid mode,
// the cgroup2 hierarchy beside them (which gives cgroup.kill, CLONE_INTO_CGROUP and PSI). Contract: oci/cgroup.h.
#pragma once

#include "oci/cgroup_base.h"

namespace caisson::oci {

class CgroupV1 : public CgroupBase {
 public:
  // `name` is clean (CleanCgroupPath). Nothing is made yet: call Make or Find.
  CgroupV1(const std::vector<sys::CgroupMount>& mounts, std::string name, std::unique_ptr<SystemdScope> scope);

  Result<> Freeze(Deadline deadline) override;
  Result<> Thaw() override;
  Result<bool> Frozen() override;
  Result<CgroupStats> Stats(StatsPart part) override;
  Result<UniqueFd> OomEvents() override;
  Result<uint64_t> OomKills() override;
  bool IsV2() const override { return false; }

 protected:
  Result<> Initialise(const CgroupHierarchy& hierarchy, const std::string& dir) override;
  Result<> PrepareParents(const CgroupHierarchy& hierarchy) override;
  Result<std::vector<CgroupWrite>> PlanWrites(const Resources& resources) override;
  Result<> ApplyDevices(const std::vector<Resources::DeviceRule>& rules, bool fresh) override;
  const CgroupHierarchy* HierarchyOf(std::string_view controller) const override;
};

}  // namespace caisson::oci

// SPDX-License-Identifier: Apache-2.0
//
// CgroupV2: a group on a host whose controllers are all on cgroup2 (Documentation/admin-guide/cgroup-v2.rst): controllers
// are delegated down the path, processes live in leaves only, devices are an eBPF program. Contract: oci/cgroup.h.
#pragma once

#include "oci/cgroup_base.h"

namespace caisson::oci {

class CgroupV2 : public CgroupBase {
 public:
  // `root` is where cgroup2 is mounted, or any directory that looks like it. `name` is clean (CleanCgroupPath).
  CgroupV2(std::string root, std::string name, std::unique_ptr<SystemdScope> scope);

  Result<> Freeze(Deadline deadline) override;
  Result<> Thaw() override;
  Result<bool> Frozen() override;
  Result<CgroupStats> Stats(StatsPart part) override;
  Result<UniqueFd> OomEvents() override;
  Result<uint64_t> OomKills() override;
  bool IsV2() const override { return true; }

 protected:
  Result<> Initialise(const CgroupHierarchy& hierarchy, const std::string& dir) override;
  Result<> PrepareParents(const CgroupHierarchy& hierarchy) override;
  Result<> Settle() override;
  Result<std::vector<CgroupWrite>> PlanWrites(const Resources& resources) override;
  Result<> ApplyDevices(const std::vector<Resources::DeviceRule>& rules, bool fresh) override;
  const CgroupHierarchy* HierarchyOf(std::string_view controller) const override;

 private:
  std::string ParentDir() const;
  Result<> Delegate(const std::string& dir);
  Result<> LoadControllers();
  Result<> Exists() const;  // kFailedPrecondition if the group could not be made
  bool loaded_ = false;  // hierarchies_[0].controllers are read
};

}  // namespace caisson::oci

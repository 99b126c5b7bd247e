// SPDX-License-Identifier: Apache-2.0
//
// CgroupBase: what cgroup v1 and v2 do alike, over the list of directories that the group has. cgroup_v1.h and
// cgroup_v2.h derive from it; nobody else includes this. Contract: oci/cgroup.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/scope_exit.h"
#include "oci/cgroup.h"
#include "oci/cgroup_plan.h"
#include "oci/cgroup_systemd.h"
#include "sys/cgroup.h"

namespace caisson::oci {

class CgroupBase : public Cgroup {
 public:
  ~CgroupBase() override = default;

  int CloneIntoFd() override;
  Result<UniqueFd> GroupBelowOf(int pid) override;
  Result<std::vector<int>> JoinFds() override;
  void CloseFds() override;
  Result<> Attach(int pid) override;
  Result<> Apply(const Resources& resources) override;
  Result<std::vector<int>> Pids() override;
  Result<> Signal(int signal) override;
  Result<> Kill(Deadline deadline) override;
  Result<> Delete(Deadline deadline) override;
  const std::vector<CgroupHierarchy>& Hierarchies() const override { return hierarchies_; }

  // Makes the group in each of hierarchies_ and applies `resources`; undone on failure.
  Result<> Make(const CgroupOptions& options);
  // Leaves only the hierarchies in which the group exists. Errors: kNotFound.
  Result<> Find();

 protected:
  // Directories made by MakeGroups are initialised with this before the next level is made.
  virtual Result<> Initialise(const CgroupHierarchy& hierarchy, const std::string& dir) = 0;
  // Before the group is made in `hierarchy`: what its parents need.
  virtual Result<> PrepareParents(const CgroupHierarchy& hierarchy) = 0;
  // When the group is made and the scope's placeholder, if any, is in it.
  virtual Result<> Settle() { return {}; }
  virtual Result<std::vector<CgroupWrite>> PlanWrites(const Resources& resources) = 0;
  virtual Result<> ApplyDevices(const std::vector<Resources::DeviceRule>& rules, bool fresh) = 0;
  // Where a file of `controller` is; null if the host has no such controller.
  virtual const CgroupHierarchy* HierarchyOf(std::string_view controller) const = 0;

  // Path of `file` in the group, for a controller that HierarchyOf knows.
  std::string FileOf(std::string_view controller, const std::string& file) const;
  const CgroupHierarchy* Unified() const;  // the cgroup2 hierarchy or null
  // Resources and devices, with the plan's rules on optional files, read-back and retry.
  Result<> ApplyAll(const Resources& resources, bool fresh);
  Result<> Carry(const std::vector<CgroupWrite>& writes);

  std::string name_;  // the group's path below each mount point
  std::vector<CgroupHierarchy> hierarchies_;
  std::unique_ptr<SystemdScope> scope_;  // systemd driver: the unit that holds the group

 private:
  Result<> MakeGroups(bool rootless, Rollback* rollback);
  Result<> MakeIn(const CgroupHierarchy& hierarchy, Rollback* rollback);
  Result<bool> AllEmpty();
  Result<> KillOnce();

  UniqueFd unified_fd_;
  std::vector<UniqueFd> join_fds_;
};

}  // namespace caisson::oci

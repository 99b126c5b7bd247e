// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup.h"

#include "oci/cgroup_plan.h"
#include "oci/cgroup_systemd.h"
#include "oci/cgroup_v1.h"
#include "oci/cgroup_v2.h"
#include "sys/cgroup.h"

namespace caisson::oci {
namespace {

// On v2 a container's group is one below its scope: the files of the scope's own group are systemd's, which sets them back
// to what it knows whenever it likes (daemon-reload); below a delegated unit it touches nothing (systemd.io, "Control Group
// APIs and Delegation"). The scope has the limits that systemd knows as well.
constexpr char kBelowScope[] = "/container";

Result<std::unique_ptr<CgroupBase>> Plain(const CgroupOptions& options) {
  std::vector<sys::CgroupMount> mounts = TRY(sys::ReadCgroupMounts());
  sys::CgroupMode mode = sys::ModeOf(mounts);
  if (mode == sys::CgroupMode::kNone) return MakeError(Code::kFailedPrecondition, "no cgroup hierarchy is mounted on this host");
  bool v2 = mode == sys::CgroupMode::kV2;
  std::string name;
  std::unique_ptr<SystemdScope> scope;
  if (options.systemd) {
    SystemdPath path = TRY(ParseSystemdPath(options.path));
    name = path.path;
    if (v2) name += kBelowScope;
    scope = std::make_unique<SystemdScope>(std::move(path), v2);
  } else {
    name = TRY(CleanCgroupPath(options.path));
  }
  std::unique_ptr<CgroupBase> group;
  if (v2) {
    std::string root;
    for (const sys::CgroupMount& mount : mounts) {
      if (mount.v2) root = mount.mount_point;
    }
    group = std::make_unique<CgroupV2>(root, std::move(name), std::move(scope));
  } else {
    group = std::make_unique<CgroupV1>(mounts, std::move(name), std::move(scope));
  }
  return group;
}

}  // namespace

Result<std::unique_ptr<Cgroup>> Cgroup::Create(const CgroupOptions& options) {
  std::unique_ptr<CgroupBase> group = TRY(Plain(options));
  TRY(group->Make(options));
  return std::unique_ptr<Cgroup>(std::move(group));
}

Result<std::unique_ptr<Cgroup>> Cgroup::Open(const CgroupOptions& options) {
  std::unique_ptr<CgroupBase> group = TRY(Plain(options));
  auto found = group->Find();
  if (!found && !options.rootless) return std::move(found.error());
  return std::unique_ptr<Cgroup>(std::move(group));
}

}  // namespace caisson::oci

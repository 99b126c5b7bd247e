// SPDX-License-Identifier: Apache-2.0
//
// The container's file system, as its init process makes it in its own mount namespace: root, mounts, devices, console,
// masks, and last pivot_root(2). Runs in the child only; everything goes with the namespace if a step fails.
//
// Targets are resolved in the new root (sys/path.h) and mounted on by descriptor, so neither links of an image nor a
// racing process that shares a volume can lead a mount elsewhere.
//
// In a user namespace the child has no right to the host's folders any more: then PrepareTrees opens, before that
// namespace is entered, what the child will attach.
#pragma once

#include <functional>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/cgroup.h"
#include "oci/devices.h"
#include "oci/plan.h"
#include "oci/user_namespace.h"

namespace caisson::oci {

struct PreparedTrees {
  UniqueFd root;                // valid: to be attached on the plan's root_path
  std::vector<UniqueFd> binds;  // one for each of the plan's mounts, not valid for those that are no bind or image
};

struct RootfsOptions {
  const Plan& plan;
  const std::vector<CgroupHierarchy>& cgroups;
  bool cgroup_v2 = false;
  int shm_fd = -1;  // a detached mount, to be attached for the mount of kind kShm
  uint16_t console_width = 0, console_height = 0;
  const MappingNamespaces* mappings = nullptr;  // has those of the plan's mounts
  PreparedTrees* prepared = nullptr;            // null: the child opens what it needs
  std::function<Result<>()> before_pivot;       // createContainer hooks; may be empty
};

// Mounts the root and clones all bind sources and images. The caller has a mount namespace of its own that it gives up afterwards.
Result<PreparedTrees> PrepareTrees(const Plan& plan, const MappingNamespaces& mappings);

// On return the calling process is in the new root, "/" its working directory. The pty is valid when the plan has a
// console. Errors name the mount or path.
// The same without entering it: the file system is left on the plan's root_path, with all that is mounted in it.
Result<> BuildRootfs(const RootfsOptions& options);
Result<Pty> EnterRootfs(const RootfsOptions& options);

}  // namespace caisson::oci

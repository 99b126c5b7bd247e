// SPDX-License-Identifier: Apache-2.0
//
// Bind mounts by descriptor: open_tree(2), mount_setattr(2), move_mount(2); Linux 5.12. Child only.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/mounts.h"

namespace caisson::oci {

// A detached copy of the mount at `source` (a path, or with an empty one the descriptor `source_fd`).
Result<UniqueFd> CloneTree(int source_fd, const std::string& source, bool recursive);
// Gives `tree` the plan's attributes and propagation while nobody can see it yet, then attaches it on `target_fd`, an
// O_PATH descriptor. `tree_fd` is the root of the attached mount afterwards.
Result<> AttachTree(int tree_fd, int target_fd, const MountPlan& plan);
// Sets MS_* attributes on the mount whose root is `mount_fd`.
Result<> SetAttributes(int mount_fd, unsigned long set, unsigned long clear, bool recursive);
// Shows the owners in the detached `tree_fd` as `user_namespace` maps them (mount_setattr(2), MOUNT_ATTR_IDMAP). Only with
// the rights over the file system that the host's root has. kFailedPrecondition if kernel or file system cannot.
Result<> MapIds(int tree_fd, int user_namespace, bool recursive);
// Sets MS_SHARED and its kin, for the whole tree with MS_REC.
Result<> SetMountPropagation(int mount_fd, unsigned long propagation);

}  // namespace caisson::oci

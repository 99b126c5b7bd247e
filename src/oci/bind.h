// SPDX-License-Identifier: Apache-2.0
//
// Bind mounts by descriptor: open_tree(2), mount_setattr(2), move_mount(2); before Linux 5.12, which lacks
// mount_setattr, attributes by a remount. Child only.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/mounts.h"

namespace caisson::oci {

// A detached copy of the mount at `source` (a path, or with an empty one the descriptor `source_fd`).
Result<UniqueFd> CloneTree(int source_fd, const std::string& source, bool recursive);
// Attaches `tree` on `target_fd`, an O_PATH descriptor, with the plan's attributes and propagation.
Result<> AttachTree(int tree_fd, int target_fd, const MountPlan& plan);
// Sets MS_* attributes on the mount whose root is `mount_fd`.
Result<> SetAttributes(int mount_fd, unsigned long set, unsigned long clear, bool recursive);

}  // namespace caisson::oci

// SPDX-License-Identifier: Apache-2.0
//
// A container's root file system as a client of containerd's protocol describes it (CreateTaskRequest.rootfs), mounted where nobody sees
// it: for a guest that is to share it. Nothing is mounted on the host, and with the descriptor's last copy it is gone.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "containerd/types.pb.h"

namespace caisson::shim {

// The detached copy (open_tree(2)) of what `mounts`, one upon the other, make of the folder `at`, or of the folder with all that is mounted
// in it where there are none. A child mounts them, in a mount namespace of its own: for a process of one thread. Errors name the mount;
// kUnimplemented for one that is not for the root itself.
Result<UniqueFd> OpenRootTree(const std::vector<containerd::types::Mount>& mounts, const std::string& at);

}  // namespace caisson::shim

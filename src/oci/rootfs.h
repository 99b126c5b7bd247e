// SPDX-License-Identifier: Apache-2.0
//
// The container's file system, as its init process makes it in its own mount namespace: root, mounts, devices, console,
// masks, and last pivot_root(2). Runs in the child only; everything goes with the namespace if a step fails.
//
// Targets are resolved in the new root (sys/path.h) and mounted on by descriptor, so neither links of an image nor a
// racing process that shares a volume can lead a mount elsewhere.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/container.h"

namespace caisson::oci {

struct RootfsOptions {
  const CreateOptions& create;
  const std::vector<CgroupHierarchy>& cgroups;
  bool cgroup_v2 = false;
};

struct RootfsDone {
  UniqueFd console_master, console_slave;  // valid when the process has a terminal
};

// On return the calling process is in the new root, "/" its working directory. Errors name the mount or path.
Result<RootfsDone> EnterRootfs(const RootfsOptions& options);

struct Pty {
  UniqueFd master, slave;
};
// A pty of the devpts at /dev/pts below `root_fd`; refuses a /dev/pts that is no devpts.
Result<Pty> OpenPty(int root_fd, uint16_t width, uint16_t height);

}  // namespace caisson::oci

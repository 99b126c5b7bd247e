// SPDX-License-Identifier: Apache-2.0
//
// Ends a process that was exec'd into a container with everything that came of it. The kernel knows no such group (its
// cgroup is the container's), so it is put together: its session, its children and theirs, and whoever still holds one
// of its output pipes. Only a process that has left all of these on purpose (a daemon) stays.
#pragma once

#include <sys/types.h>

#include <functional>
#include <vector>

#include "base/result.h"

namespace caisson::task {

// `root`: leader of its session, not reaped yet (or 0: gone). `candidates` gives the container's processes anew each time
// and is asked a bounded number of times; `init` is never harmed. `pipes`: inodes of the pipes. Stops all first, so that
// none forks away, then SIGKILL. Returns how many were hit.
int KillTree(int root, int init, const std::vector<ino_t>& pipes, const std::function<Result<std::vector<int>>()>& candidates);

}  // namespace caisson::task

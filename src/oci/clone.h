// SPDX-License-Identifier: Apache-2.0
//
// clone3(2) with a pidfd, from a single-threaded process. The child is a copy, as after fork.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::oci {

struct Cloned {
  int pid = 0;  // 0 in the child
  UniqueFd pidfd;
};

// `flags`: CLONE_NEW*. `cgroup_fd`: a cgroup2 folder to be born in, or -1.
Result<Cloned> Clone(unsigned long flags, int cgroup_fd);
// Waits for the child's end and reaps it; returns its exit code, 128 + signal if one ended it.
Result<int> Reap(int pidfd, int64_t deadline_millis);
// Waits for the end of a process that need not be our child. kDeadlineExceeded.
Result<> AwaitEnd(int pidfd, int64_t deadline_millis);
// SIGKILL by pidfd, then Reap. Gone already: nothing.
void KillAndReap(int pidfd);
// The number of the process that `pidfd` is, in our PID namespace (proc(5), fdinfo). kAborted: it has ended.
Result<int> PidOf(int pidfd);

}  // namespace caisson::oci

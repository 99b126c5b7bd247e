// SPDX-License-Identifier: Apache-2.0
//
// How readily the kernel ends a process when the host's memory is short (proc(5), /proc/PID/oom_score_adj), for the helpers of a VM pod, which
// have inherited a daemon's: that is not to be theirs. Best effort; no state.
#pragma once

namespace caisson::shim {

// What a pod's helpers have while no container says what the pod deserves: neither more protected than others nor less; ours if that is higher.
int OwnOomScore();
// A value below what the process may have (CAP_SYS_RESOURCE) becomes ours. What fails is logged, but for a process that has ended.
void SetOomScore(int pid, int score);

}  // namespace caisson::shim

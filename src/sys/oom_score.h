// SPDX-License-Identifier: Apache-2.0
//
// How early the kernel ends a process for want of memory: proc_pid_oom_score_adj(5), -1000 (never) to 1000. No state; any thread.
#pragma once

#include "base/result.h"

namespace caisson::sys {

// Ours. Errors: there is no /proc, or what it says is no number.
Result<int> OwnOomScore();
// Of process `pid`, 0: ours. Errors: EACCES below what we may set without CAP_SYS_RESOURCE; ENOENT or ESRCH where it has ended.
Result<> SetOomScore(int pid, int score);

}  // namespace caisson::sys

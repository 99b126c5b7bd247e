// SPDX-License-Identifier: Apache-2.0
//
// What each of the agent's processes may not do. PID 1 and the launchers that it forks have all rights, and hear nothing from outside;
// the messenger, which parses what the host says, and the carriers of shared folders have none. Each function for the calling
// process, which has one thread; there is no way back.
#pragma once

#include <string>

#include "base/result.h"

namespace caisson::agent {

// Whom processes without rights belong to, user and group. No container is likely to have that number, and none sees them.
inline constexpr unsigned kNobodysId = 2147483646;

// The guest's own memory shortage ends others first (proc(5), oom_score_adj).
void SpareFromOom();

// Of another user, without groups, capabilities, or a way to gain any (capabilities(7), no_new_privs). Errors name the step.
Result<> DropRights();

// The system calls of an event loop that reads files and sockets, and no others: no program, no process, no mount, no signal.
// After DropRights.
Result<> AllowMessengerCalls();
// read(2), write(2) and the end.
Result<> AllowCarrierCalls();

}  // namespace caisson::agent

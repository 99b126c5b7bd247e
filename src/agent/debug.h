// SPDX-License-Identifier: Apache-2.0
//
// What processes for debugging run in: a container that shares all of the guest's own namespaces but for a copy of its mounts,
// and has the agent's root and every right. It is there only in a machine that was started for debugging (early_init.h).
#pragma once

#include <functional>
#include <string>

#include "agent/launches.h"
#include "base/result.h"
#include "task/tasks.h"

namespace caisson::agent {

// The launchers' part: the bundle's folder. kFailedPrecondition in another machine.
Result<std::string> WriteDebugBundle();

// Makes and starts kGuestDebugContainer if it does not run. `done` may run before this returns.
void OpenDebugContainer(task::Tasks* tasks, Launches* launches, std::function<void(Result<>)> done);

}  // namespace caisson::agent

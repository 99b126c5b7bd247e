// SPDX-License-Identifier: Apache-2.0
//
// A Container (oci/container.h) whose owner has no rights: launchers make it and change it, its owner only looks on. What is read
// (its cgroup, its processes) is read here; it is started by its gate, which needs no rights either. The third implementation of
// that interface. One thread.
#pragma once

#include <memory>

#include "agent/launches.h"
#include "oci/container.h"

namespace caisson::agent {

// As Container::Create. `launches` outlives it. Errors: also those of a launcher that dies.
Result<std::unique_ptr<oci::Container>> CreateLaunched(Launches* launches, oci::CreateOptions options);

// SIGKILL to a process exec'd in it, and all that came of it (task/process_tree.h). `process` null: it has ended.
void KillLaunchedTree(Launches* launches, const oci::Container& container, const oci::Process* process, const std::vector<ino_t>& pipes);

}  // namespace caisson::agent

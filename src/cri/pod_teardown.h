// SPDX-License-Identifier: Apache-2.0
//
// Taking a pod apart, for StopPodSandbox, RemovePodSandbox, a failed RunPodSandbox and recovery. Every function may be
// called again after it failed half-way, treats what is gone as done, and has a deadline for each step. The caller
// holds the pod's `operation`.
#pragma once

#include <string>

#include "cri/context.h"
#include "cri/steps.h"

namespace caisson::cri {

// The companion's program for a handler's configuration: its own, Config::shim_path, beside this program, or in PATH.
Result<std::string> FindCompanion(const Config& config, const std::string& handler);

// The companion's flags beyond its id and socket.
std::vector<std::string> CompanionArguments(const Context& context, const std::string& handler);

// Ends a companion: asked first, then killed, then what it left is removed.
Result<> EndCompanion(Context& context, const PodRecord& record, const std::shared_ptr<ShimClient>& shim);
// Removes cgroups, processes and mounts that a dead companion left.
Result<> RunCleanup(Context& context, const PodRecord& record);

// After a companion's death: RunCleanup, and the record says that there is no companion.
Result<> CleanUpAfterCompanion(Context& context, const PodPtr& pod);
// Containers killed, companion ended, network released; the record says so. Idempotent.
Result<> StopPod(Context& context, const PodPtr& pod);
// Stops the container at once and forgets it, with its snapshot and bundle. Gone: success.
Result<> DiscardContainer(Context& context, const ContainerPtr& container);
// The snapshot and the bundle.
Result<> RemoveContainerFiles(Context& context, const ContainerRecord& record);
// Kills, waits for and deletes whatever the companion has of the container, in whichever state; the record is the caller's.
// Unknown to the companion, or the companion dead: success.
Result<> EndTask(ShimClient& shim, const std::string& container_id);
// SIGKILL to every process of the container, and its end is recorded.
Result<> KillContainer(Context& context, const ContainerPtr& container, int64_t deadline_millis);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// The Task service of containerd's shim protocol, versions 2 and 3 (the same messages under two names), over Tasks.
// What is not supported answers kUnimplemented with a sentence: runc options that would change what the container gets.
#pragma once

#include <functional>
#include <string>

#include "containerd/runc_options.pb.h"
#include "task/tasks.h"
#include "ttrpc/server.h"

namespace caisson::task {

// Registers the service at `server`, before it listens. `tasks` outlives the server. `on_shutdown` is called by Shutdown
// when no container is left, or with `now`.
void RegisterTaskService(ttrpc::Server* server, Tasks* tasks, std::function<void()> on_shutdown);

// What we have no use for changes nothing (root, where runc keeps its state; task_api_address, which is ours); what would change what the
// container gets is refused: kUnimplemented naming it.
Result<> CheckRuncOptions(const std::string& container_id, const containerd::runc::v1::Options& options);

// "caisson.pod.v1.CreateOptions" in CreateTaskRequest.options.
inline constexpr char kCreateOptionsType[] = "caisson.pod.v1.CreateOptions";

}  // namespace caisson::task

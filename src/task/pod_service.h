// SPDX-License-Identifier: Apache-2.0
//
// caisson.pod.v1.Pod (proto/caisson/pod/v1/pod.proto) over Tasks: what caissond asks of a companion beyond the Task
// service. The guest's agent serves it too.
#pragma once

#include "task/tasks.h"
#include "ttrpc/server.h"

namespace caisson::task {

// Before the server listens. `tasks` outlives the server.
void RegisterPodService(ttrpc::Server* server, Tasks* tasks);

}  // namespace caisson::task

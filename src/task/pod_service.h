// SPDX-License-Identifier: Apache-2.0
//
// caisson.pod.v1.Pod (proto/caisson/pod/v1/pod.proto) over Tasks: what caissond asks of a companion beyond the Task
// service. The guest's agent serves it too.
#pragma once

#include <functional>
#include <string>

#include "caisson/pod/v1/pod.pb.h"
#include "oci/cgroup.h"
#include "task/tasks.h"
#include "ttrpc/server.h"

namespace caisson::task {

// Before the server listens. `tasks` outlives the server.
void RegisterPodService(ttrpc::Server* server, Tasks* tasks);

// The answers of WaitAttach and ReopenLog, of whatever a container is made of. Null: nobody is attached, there is no log.
void AnswerWaitAttach(Attachments* attachments, const pod::v1::WaitAttachRequest& request, std::function<void(Result<pod::v1::WaitAttachResponse>)> respond);
Result<pod::v1::ReopenLogResponse> AnswerReopenLog(LogFile* log, const pod::v1::ReopenLogRequest& request);

// Of the group that a pod's cgroup_parent names, without detail. Errors: it is none, or cannot be read.
Result<pod::v1::ContainerStats> StatsOfPod(const std::string& path);

// What has been read of a group, without an id and without detail.
pod::v1::ContainerStats StatsOfGroup(const oci::CgroupStats& stats);

}  // namespace caisson::task

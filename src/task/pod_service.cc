// SPDX-License-Identifier: Apache-2.0
#include "task/pod_service.h"

#include <utility>

#include "base/clock.h"
#include "caisson/pod/v1/pod.pb.h"
#include "task/sync_exec.h"

namespace caisson::task {
namespace {

namespace v1 = pod::v1;

Result<v1::AttachResponse> Attach(Tasks* tasks, const v1::AttachRequest& request) {
  Task* task = TRY(tasks->Find(request.container_id()));
  v1::AttachResponse response;
  response.set_stdin(TRY(tasks->Attach(task, request.attach_id(),
                                       {request.life_path(), request.stdin_path(), request.stdout_path(), request.stderr_path()})));
  return response;
}

void WaitAttach(Tasks* tasks, const v1::WaitAttachRequest& request, std::function<void(Result<v1::WaitAttachResponse>)> respond) {
  auto task = tasks->Find(request.container_id());
  if (!task) return respond(std::move(task.error()));
  if (!(*task)->attachments) return respond(MakeError(Code::kNotFound, "nobody is attached to container '{}'", request.container_id()));
  auto waits = (*task)->attachments->Wait(request.attach_id(), [respond](bool too_slow) {
    v1::WaitAttachResponse response;
    response.set_too_slow(too_slow);
    respond(std::move(response));
  });
  if (!waits) respond(std::move(waits.error()));
}

void FillStats(const std::string& id, const oci::CgroupStats& stats, v1::ContainerStats* out) {
  out->set_container_id(id);
  out->set_cpu_usage_nanos(stats.cpu.usage_nanos);
  out->set_memory_usage_bytes(stats.memory.usage);
  out->set_memory_working_set_bytes(stats.memory.working_set);
  out->set_memory_rss_bytes(stats.memory.rss);
  out->set_memory_page_faults(stats.memory.page_faults);
  out->set_memory_major_page_faults(stats.memory.major_page_faults);
  out->set_memory_limit_bytes(stats.memory.limit == UINT64_MAX ? 0 : stats.memory.limit);
  out->set_pids(stats.pids.current);
  out->set_swap_usage_bytes(stats.memory.swap_usage.value_or(0));
  out->set_swap_limit_bytes(stats.memory.swap_limit.value_or(0));
  out->set_timestamp_nanos(stats.at_nanos);
}

Result<v1::StatsResponse> Stats(Tasks* tasks, const v1::StatsRequest& request) {
  v1::StatsResponse response;
  response.set_timestamp_nanos(NowNanos());
  if (!request.container_id().empty()) {
    Task* task = TRY(tasks->Find(request.container_id()));
    FillStats(task->id, TRY(task->container->cgroup()->Stats(oci::StatsPart::kUsage)), response.add_containers());
    return response;
  }
  for (const auto& [id, task] : tasks->all()) {
    // One that is just being removed has none.
    if (auto stats = task->container->cgroup()->Stats(oci::StatsPart::kUsage)) FillStats(id, *stats, response.add_containers());
  }
  return response;
}

Result<v1::ContainerInfoResponse> Info(Tasks* tasks, const v1::ContainerInfoRequest& request) {
  Task* task = TRY(tasks->Find(request.container_id()));
  v1::ContainerInfoResponse response;
  response.set_pid(static_cast<uint32_t>(task->init.oci.pid));
  response.set_created_at_nanos(task->created_at_nanos);
  response.set_started_at_nanos(task->init.started_at_nanos);
  response.set_finished_at_nanos(task->init.exited_at_nanos);
  response.set_exit_code(static_cast<int32_t>(task->init.exit_status));
  response.set_oom_killed(tasks->OomKilled(task));
  response.set_running(task->init.started_at_nanos != 0 && !task->init.exited);
  return response;
}

Result<v1::ReopenLogResponse> Reopen(Tasks* tasks, const v1::ReopenLogRequest& request) {
  Task* task = TRY(tasks->Find(request.container_id()));
  if (!task->log) return MakeError(Code::kFailedPrecondition, "container '{}' has no log", request.container_id());
  TRY(task->log->Reopen());
  return v1::ReopenLogResponse();
}

template <class Request, class Response>
void Add(ttrpc::Server* server, const char* method, Tasks* tasks, Result<Response> (*call)(Tasks*, const Request&)) {
  server->HandleTyped<Request, Response>("caisson.pod.v1.Pod", method, [tasks, call](const Request& request, std::function<void(Result<Response>)> respond) {
    respond(call(tasks, request));
  });
}

}  // namespace

void RegisterPodService(ttrpc::Server* server, Tasks* tasks) {
  Add(server, "Stats", tasks, &Stats);
  Add(server, "ContainerInfo", tasks, &Info);
  Add(server, "ReopenLog", tasks, &Reopen);
  Add(server, "Attach", tasks, &Attach);
  server->HandleTyped<v1::WaitAttachRequest, v1::WaitAttachResponse>(
      "caisson.pod.v1.Pod", "WaitAttach",
      [tasks](const v1::WaitAttachRequest& request, std::function<void(Result<v1::WaitAttachResponse>)> respond) {
        WaitAttach(tasks, request, std::move(respond));
      });
  auto execs = std::make_shared<SyncExecs>(tasks);
  server->HandleTyped<v1::ExecSyncRequest, v1::ExecSyncResponse>(
      "caisson.pod.v1.Pod", "ExecSync", [execs](const v1::ExecSyncRequest& request, SyncExecs::Respond respond) {
        execs->Start(request, std::move(respond));
      });
  server->HandleTyped<v1::ExecSyncMoreRequest, v1::ExecSyncResponse>(
      "caisson.pod.v1.Pod", "ExecSyncMore", [execs](const v1::ExecSyncMoreRequest& request, SyncExecs::Respond respond) {
        execs->More(request, std::move(respond));
      });
}

}  // namespace caisson::task

// SPDX-License-Identifier: Apache-2.0
#include "task/pod_service.h"

#include <sys/vfs.h>

#include <utility>

#include "base/clock.h"
#include "caisson/pod/v1/pod.pb.h"
#include "oci/cgroup.h"
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
  AnswerWaitAttach((*task)->attachments.get(), request, std::move(respond));
}

void FillPressure(const std::optional<oci::Psi>& psi, v1::Pressure* (v1::ContainerStats::*add)(), v1::ContainerStats* out) {
  if (!psi) return;
  v1::Pressure* pressure = (out->*add)();
  auto fill = [](const oci::PsiLine& line, v1::PressureLine* to) {
    to->set_total_micros(line.total_usec);
    to->set_avg10(static_cast<uint32_t>(line.avg10));
    to->set_avg60(static_cast<uint32_t>(line.avg60));
    to->set_avg300(static_cast<uint32_t>(line.avg300));
  };
  fill(psi->some, pressure->mutable_some());
  fill(psi->full, pressure->mutable_full());
}

void FillDetail(const oci::CgroupStats& stats, v1::ContainerDetail* out) {
  out->set_cpu_user_nanos(stats.cpu.user_nanos);
  out->set_cpu_system_nanos(stats.cpu.system_nanos);
  out->set_cpu_periods(stats.cpu.periods);
  out->set_cpu_throttled_periods(stats.cpu.throttled_periods);
  out->set_cpu_throttled_nanos(stats.cpu.throttled_nanos);
  out->set_memory_cache_bytes(stats.memory.cache);
  out->set_memory_kernel_bytes(stats.memory.kernel);
  out->set_memory_mapped_file_bytes(stats.memory.mapped_file);
  out->set_memory_active_file_bytes(stats.memory.active_file);
  out->set_memory_inactive_file_bytes(stats.memory.inactive_file);
  out->set_memory_max_usage_bytes(stats.memory.max_usage);
  out->set_memory_fail_count(stats.memory.fail_count);
  out->set_oom_kills(stats.memory.oom_kills);
  out->set_pids_limit(stats.pids.limit);
  for (const auto& device : stats.io) {
    v1::BlockDeviceUse* use = out->add_devices();
    use->set_major(device.major);
    use->set_minor(device.minor);
    use->set_read_bytes(device.read_bytes);
    use->set_write_bytes(device.write_bytes);
    use->set_reads(device.reads);
    use->set_writes(device.writes);
  }
  for (const auto& pages : stats.hugetlb) {
    v1::HugetlbUse* use = out->add_hugetlb();
    use->set_page_size(pages.page_size);
    use->set_usage_bytes(pages.usage);
    use->set_max_bytes(pages.max);
  }
}

v1::ContainerStats StatsMessage(const std::string& id, const oci::CgroupStats& stats) {
  v1::ContainerStats out;
  out.set_container_id(id);
  out.set_cpu_usage_nanos(stats.cpu.usage_nanos);
  out.set_memory_usage_bytes(stats.memory.usage);
  out.set_memory_working_set_bytes(stats.memory.working_set);
  out.set_memory_rss_bytes(stats.memory.rss);
  out.set_memory_page_faults(stats.memory.page_faults);
  out.set_memory_major_page_faults(stats.memory.major_page_faults);
  out.set_memory_limit_bytes(stats.memory.limit == UINT64_MAX ? 0 : stats.memory.limit);
  out.set_pids(stats.pids.current);
  out.set_swap_usage_bytes(stats.memory.swap_usage.value_or(0));
  out.set_swap_limit_bytes(stats.memory.swap_limit.value_or(UINT64_MAX) == UINT64_MAX ? 0 : *stats.memory.swap_limit);
  out.set_timestamp_nanos(stats.at_nanos);
  FillPressure(stats.cpu.psi, &v1::ContainerStats::mutable_cpu_pressure, &out);
  FillPressure(stats.memory.psi, &v1::ContainerStats::mutable_memory_pressure, &out);
  FillPressure(stats.io_psi, &v1::ContainerStats::mutable_io_pressure, &out);
  return out;
}

Result<v1::ContainerStats> StatsOf(const TasksOptions& options, const Task& task, bool detail) {
  oci::CgroupStats read = TRY(task.container->Stats(detail ? oci::StatsPart::kAll : oci::StatsPart::kUsage));
  v1::ContainerStats stats = StatsMessage(task.id, read);
  if (detail) {
    FillDetail(read, stats.mutable_detail());
    stats.mutable_detail()->set_processes(task.container->HasHostProcesses() ? TRY(task.container->Pids()).size() : read.pids.current);
  }
  struct statfs layer {};
  if (options.writable_layer && statfs(options.writable_layer(task.id).c_str(), &layer) == 0) {
    stats.mutable_writable_layer()->set_used_bytes((layer.f_blocks - layer.f_bfree) * static_cast<uint64_t>(layer.f_bsize));
    stats.mutable_writable_layer()->set_used_inodes(layer.f_files - layer.f_ffree);
  }
  return stats;
}

Result<v1::StatsResponse> Stats(Tasks* tasks, const v1::StatsRequest& request) {
  v1::StatsResponse response;
  response.set_timestamp_nanos(NowNanos());
  if (request.pod() && !tasks->options().pod_cgroup.empty()) {
    if (auto stats = StatsOfPod(tasks->options().pod_cgroup)) *response.mutable_pod() = std::move(*stats);
  }
  if (!request.container_id().empty()) {
    Task* task = TRY(tasks->Find(request.container_id()));
    *response.add_containers() = TRY(StatsOf(tasks->options(), *task, request.detail()));
    return response;
  }
  for (const auto& [id, task] : tasks->all()) {
    // One that is just being removed has none.
    if (auto stats = StatsOf(tasks->options(), *task, request.detail())) *response.add_containers() = std::move(*stats);
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

void ReadOutput(Tasks* tasks, const v1::ReadOutputRequest& request, std::function<void(Result<v1::ReadOutputResponse>)> respond) {
  auto process = tasks->FindProcess(request.container_id(), request.exec_id());
  if (!process) return respond(std::move(process.error()));
  KeptOutput* kept = (request.stderr() ? (*process)->kept_err : (*process)->kept_out).get();
  if (kept == nullptr) return respond(MakeError(Code::kFailedPrecondition, "this output of container '{}' is not kept", request.container_id()));
  kept->Read(request.max_bytes(), request.no_wait(), [respond](Result<KeptOutput::Part> part) {
    if (!part) return respond(std::move(part.error()));
    v1::ReadOutputResponse response;
    response.set_data(std::move(part->data));
    response.set_ended(part->ended);
    respond(std::move(response));
  });
}

void WriteInput(Tasks* tasks, const v1::WriteInputRequest& request, std::function<void(Result<v1::WriteInputResponse>)> respond) {
  auto process = tasks->FindProcess(request.container_id(), request.exec_id());
  if (!process) return respond(std::move(process.error()));
  if (!(*process)->input) return respond(MakeError(Code::kFailedPrecondition, "the stdin of container '{}' is not open", request.container_id()));
  (*process)->input->Write(request.data(), [respond](Result<> written) {
    if (!written) return respond(std::move(written.error()));
    respond(v1::WriteInputResponse());
  });
}

Result<v1::ReopenLogResponse> Reopen(Tasks* tasks, const v1::ReopenLogRequest& request) {
  Task* task = TRY(tasks->Find(request.container_id()));
  return AnswerReopenLog(task->log.get(), request);
}

// In the containers of Tasks.
class TasksExecHost : public ExecHost {
 public:
  explicit TasksExecHost(Tasks* tasks) : tasks_(tasks) {}

  sys::EventLoop* loop() override { return tasks_->loop(); }
  void StartExec(const std::string& container_id, const std::string& exec_id, std::vector<std::string> args, StdioRequest stdio,
                 std::function<void(Result<>)> done) override {
    done(Start(container_id, exec_id, std::move(args), std::move(stdio)));
  }
  Process* FindExec(const std::string& container_id, const std::string& exec_id) override {
    auto process = tasks_->FindProcess(container_id, exec_id);
    return process ? *process : nullptr;
  }
  void WaitExec(Process* process, Process::Waiter waiter) override { tasks_->Wait(process, std::move(waiter)); }
  void KillExec(const std::string& container_id, const std::string& exec_id) override {
    auto task = tasks_->Find(container_id);
    if (Process* process = FindExec(container_id, exec_id); process != nullptr && task) tasks_->KillTree(*task, *process);
  }
  void ForgetExec(const std::string& container_id, const std::string& exec_id) override {
    if (auto task = tasks_->Find(container_id)) tasks_->Forget(*task, exec_id);
  }

 private:
  Result<> Start(const std::string& container_id, const std::string& exec_id, std::vector<std::string> args, StdioRequest stdio) {
    Task* task = TRY(tasks_->Find(container_id));
    oci::ExecOptions options;
    options.process = task->container->spec().process;
    options.process.terminal = false;
    options.process.args = std::move(args);
    Process* process = TRY(tasks_->AddExec(task, exec_id, std::move(options), std::move(stdio)));
    auto started = tasks_->StartExec(task, process);
    if (!started) tasks_->Forget(task, exec_id);
    return started;
  }

  Tasks* tasks_;
};

template <class Request, class Response>
void AddLater(ttrpc::Server* server, const char* method, Tasks* tasks,
              void (*call)(Tasks*, const Request&, std::function<void(Result<Response>)>)) {
  server->HandleTyped<Request, Response>("caisson.pod.v1.Pod", method, [tasks, call](const Request& request, std::function<void(Result<Response>)> respond) {
    call(tasks, request, std::move(respond));
  });
}

template <class Request, class Response>
void Add(ttrpc::Server* server, const char* method, Tasks* tasks, Result<Response> (*call)(Tasks*, const Request&)) {
  server->HandleTyped<Request, Response>("caisson.pod.v1.Pod", method, [tasks, call](const Request& request, std::function<void(Result<Response>)> respond) {
    respond(call(tasks, request));
  });
}

}  // namespace

// With the systemd driver too the CRI's cgroup_parent is a path; one that is not is nobody's group.
Result<v1::ContainerStats> StatsOfPod(const std::string& path) {
  oci::CgroupOptions options;
  options.path = path;
  auto cgroup = TRY(oci::Cgroup::Open(options));
  return StatsMessage("", TRY(cgroup->Stats(oci::StatsPart::kUsage)));
}

v1::ContainerStats StatsOfGroup(const oci::CgroupStats& stats) { return StatsMessage("", stats); }

void AnswerWaitAttach(Attachments* attachments, const v1::WaitAttachRequest& request, std::function<void(Result<v1::WaitAttachResponse>)> respond) {
  if (attachments == nullptr) return respond(MakeError(Code::kNotFound, "nobody is attached to container '{}'", request.container_id()));
  auto waits = attachments->Wait(request.attach_id(), [respond](bool too_slow) {
    v1::WaitAttachResponse response;
    response.set_too_slow(too_slow);
    respond(std::move(response));
  });
  if (!waits) respond(std::move(waits.error()));
}

Result<v1::ReopenLogResponse> AnswerReopenLog(LogFile* log, const v1::ReopenLogRequest& request) {
  if (log == nullptr) return MakeError(Code::kFailedPrecondition, "container '{}' has no log", request.container_id());
  TRY(log->Reopen());
  return v1::ReopenLogResponse();
}

void RegisterPodService(ttrpc::Server* server, Tasks* tasks) {
  Add(server, "Stats", tasks, &Stats);
  Add(server, "ContainerInfo", tasks, &Info);
  Add(server, "ReopenLog", tasks, &Reopen);
  Add(server, "Attach", tasks, &Attach);
  AddLater(server, "WaitAttach", tasks, &WaitAttach);
  AddLater(server, "ReadOutput", tasks, &ReadOutput);
  AddLater(server, "WriteInput", tasks, &WriteInput);
  auto execs = std::make_shared<SyncExecs>(std::make_shared<TasksExecHost>(tasks));
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

// SPDX-License-Identifier: Apache-2.0
#include "task/pod_service.h"

#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "caisson/pod/v1/pod.pb.h"

namespace caisson::task {
namespace {

namespace v1 = pod::v1;

// How long output is awaited that a grandchild may still write after the process itself has ended.
constexpr int64_t kDrainMillis = 500;
// From SIGKILL to an answer even though the process is stuck in the kernel.
constexpr int64_t kStuckMillis = 2000;

// One ExecSync from its start to its answer.
class SyncExec : public std::enable_shared_from_this<SyncExec> {
 public:
  using Respond = std::function<void(Result<v1::ExecSyncResponse>)>;

  SyncExec(Tasks* tasks, const v1::ExecSyncRequest& request, std::string exec_id, Respond respond)
      : tasks_(tasks), container_id_(request.container_id()), exec_id_(std::move(exec_id)), respond_(std::move(respond)) {
    limit_ = std::min<uint64_t>(request.limit_bytes() == 0 ? limits::kExecSyncBytes : request.limit_bytes(), limits::kExecSyncBytes);
    // Both streams and the head must fit into one message.
    limit_ = std::min<uint64_t>(limit_, (limits::kTtrpcMessageBytes - 4096) / 2);
  }

  Result<> Start(const v1::ExecSyncRequest& request) {
    Task* task = TRY(tasks_->Find(container_id_));
    oci::ExecOptions options;
    options.process = task->container->spec().process;
    options.process.terminal = false;
    options.process.args.assign(request.args().begin(), request.args().end());
    if (options.process.args.empty()) return MakeError(Code::kInvalidArgument, "exec in container '{}': no command", container_id_);
    StdioRequest stdio;
    auto self = shared_from_this();
    stdio.out_sink = [self](std::string_view bytes) { self->Collect(self->response_.mutable_stdout(), bytes); };
    stdio.err_sink = [self](std::string_view bytes) { self->Collect(self->response_.mutable_stderr(), bytes); };
    stdio.on_out_end = stdio.on_err_end = [self] { self->FinishIfDone(); };
    Process* process = TRY(tasks_->AddExec(task, exec_id_, std::move(options), std::move(stdio)));
    auto started = tasks_->StartExec(task, process);
    if (!started) {
      tasks_->Forget(task, exec_id_);
      return started;
    }
    tasks_->Wait(process, [self](const Process& ended) { self->OnExit(ended); });
    if (request.timeout_nanos() > 0) {
      timer_ = tasks_->loop()->After((request.timeout_nanos() + kNanosPerMilli - 1) / kNanosPerMilli, [self] { self->OnTimeout(); });
    }
    return {};
  }

 private:
  void Collect(std::string* into, std::string_view bytes) {
    size_t room = limit_ - std::min<size_t>(limit_, into->size());
    if (bytes.size() > room) response_.set_truncated(true);
    into->append(bytes.substr(0, room));
  }

  void OnTimeout() {
    timer_ = 0;
    response_.set_timed_out(true);
    auto process = tasks_->FindProcess(container_id_, exec_id_);
    auto task = tasks_->Find(container_id_);
    if (process && task) tasks_->KillTree(*task, **process);
    // If it is stuck in the kernel the answer does not wait for it.
    drain_timer_ = tasks_->loop()->After(kStuckMillis, [self = shared_from_this()] { self->Finish(); });
  }

  void OnExit(const Process& ended) {
    exited_ = true;
    if (timer_ != 0) tasks_->loop()->CancelTimer(std::exchange(timer_, 0));
    response_.set_exit_code(static_cast<int32_t>(ended.exit_status));
    if (ended.outputs_ended() || response_.timed_out()) return Finish();
    if (drain_timer_ == 0) drain_timer_ = tasks_->loop()->After(kDrainMillis, [self = shared_from_this()] { self->Finish(); });
  }

  void FinishIfDone() {
    auto process = tasks_->FindProcess(container_id_, exec_id_);
    if (exited_ && process && (*process)->outputs_ended()) Finish();
  }

  void Finish() {
    auto respond = std::exchange(respond_, nullptr);
    if (!respond) return;
    for (auto timer : {timer_, drain_timer_}) {
      if (timer != 0) tasks_->loop()->CancelTimer(timer);
    }
    respond(std::move(response_));
    // Its Process holds this object's callbacks and may be on the stack.
    tasks_->loop()->Post([self = shared_from_this()] {
      if (auto task = self->tasks_->Find(self->container_id_)) self->tasks_->Forget(*task, self->exec_id_);
    });
  }

  Tasks* tasks_;
  const std::string container_id_, exec_id_;
  Respond respond_;
  uint64_t limit_ = 0;
  v1::ExecSyncResponse response_;
  bool exited_ = false;
  sys::EventLoop::TimerId timer_ = 0, drain_timer_ = 0;
};

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
  out->set_oom_kills(stats.memory.oom_kills);
  out->set_timestamp_nanos(stats.at_nanos);
}

Result<v1::StatsResponse> Stats(Tasks* tasks, const v1::StatsRequest& request) {
  v1::StatsResponse response;
  response.set_timestamp_nanos(NowNanos());
  if (!request.container_id().empty()) {
    Task* task = TRY(tasks->Find(request.container_id()));
    FillStats(task->id, TRY(task->container->cgroup()->Stats()), response.add_containers());
    return response;
  }
  for (const auto& [id, task] : tasks->all()) {
    // One that is just being removed has none.
    if (auto stats = task->container->cgroup()->Stats()) FillStats(id, *stats, response.add_containers());
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
  auto count = std::make_shared<uint64_t>(0);
  server->HandleTyped<v1::ExecSyncRequest, v1::ExecSyncResponse>(
      "caisson.pod.v1.Pod", "ExecSync", [tasks, count](const v1::ExecSyncRequest& request, SyncExec::Respond respond) {
        auto exec = std::make_shared<SyncExec>(tasks, request, fmt::format("sync-{}", ++*count), respond);
        auto started = exec->Start(request);
        if (!started) respond(std::move(started.error()));
      });
}

}  // namespace caisson::task

// SPDX-License-Identifier: Apache-2.0
// The methods of ForeignTasks' services, and those that need no more than what is known here.
#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "base/clock.h"
#include "shim/foreign_spec.h"
#include "shim/foreign_stats.h"
#include "shim/foreign_tasks.h"
#include "task/pod_service.h"
#include "task/timestamp.h"

namespace caisson::shim {
namespace {

namespace v3 = containerd::task::v3;
using containerd::v1::types::Status;

constexpr char kPodService[] = "caisson.pod.v1.Pod";
constexpr int64_t kShimForwardMillis = 10'000;
// Figures that are late are none: who asks for them asks again.
constexpr int64_t kFiguresMillis = 2'000;

template <class Request, class Response, class Call>
void ServeCall(ttrpc::Server* server, const char* service, const char* method, Call call) {
  server->HandleTyped<Request, Response>(service, method, [call](const Request& request, std::function<void(Result<Response>)> respond) {
    call(request, std::move(respond));
  });
}

}  // namespace

// ExecSync's processes.
class ForeignTasks::Execs : public task::ExecHost {
 public:
  explicit Execs(ForeignTasks* tasks) : tasks_(tasks) {}

  sys::EventLoop* loop() override { return tasks_->loop_; }
  void StartExec(const std::string& container_id, const std::string& exec_id, std::vector<std::string> args, task::StdioRequest stdio,
                 std::function<void(Result<>)> done) override {
    auto container = tasks_->Find(container_id);
    if (!container) return done(std::move(container.error()));
    auto spec = ProcessWithArgs((*container)->process_json, args);
    if (!spec) return done(std::move(spec.error()));
    auto process = std::make_shared<ForeignProcess>();
    process->process.exec_id = exec_id;
    process->process.stdio = std::move(stdio);
    tasks_->AddExec(*container, process, *spec, [tasks = tasks_, container = *container, process, done](Result<wkt::Empty> added) {
      if (!added) return done(std::move(added.error()));
      tasks->StartProcess(container, process, [tasks, container, process, done](Result<> started) {
        if (!started) tasks->Forget(container, process);
        done(std::move(started));
      });
    });
  }
  task::Process* FindExec(const std::string& container_id, const std::string& exec_id) override {
    auto process = tasks_->FindProcess(container_id, exec_id);
    return process ? &(*process)->process : nullptr;
  }
  void WaitExec(task::Process* process, task::Process::Waiter waiter) override {
    if (process->exited) return waiter(*process);
    process->waiters.push_back(std::move(waiter));
  }
  void KillExec(const std::string& container_id, const std::string& exec_id) override {
    auto container = tasks_->Find(container_id);
    auto process = tasks_->FindProcess(container_id, exec_id);
    if (process) tasks_->KillExec(*container, *process);
  }
  // The shim keeps it until it is deleted.
  void ForgetExec(const std::string& container_id, const std::string& exec_id) override {
    v3::DeleteRequest request;
    request.set_id(container_id);
    request.set_exec_id(exec_id);
    auto container = tasks_->Find(container_id);
    if (!container) return;
    (*container)->shim->Ask<v3::DeleteResponse>("Delete", request, kShimForwardMillis, [](Result<v3::DeleteResponse>) {});
    auto process = tasks_->FindProcess(container_id, exec_id);
    if (process) tasks_->Forget(*container, *process);
  }

 private:
  ForeignTasks* tasks_;
};

template <class Request, class Response>
void ForeignTasks::Forward(ttrpc::Server* server, const char* service, const char* method) {
  ServeCall<Request, Response>(server, service, method, [this, method](const Request& request, Respond<Response> respond) {
    auto known = Find(request.id());
    if (!known) return respond(std::move(known.error()));
    (*known)->shim->template Call<Response>(method, request, kShimForwardMillis, std::move(respond));
  });
}

void ForeignTasks::Freeze(const char* method, const std::string& id, bool paused, Respond<wkt::Empty> respond) {
  auto container = Find(id);
  if (!container) return respond(std::move(container.error()));
  v3::PauseRequest request;  // Resume's has the same field
  request.set_id(id);
  (*container)->shim->Call<wkt::Empty>(method, request, kShimForwardMillis, [container = *container, paused, respond](Result<wkt::Empty> answer) {
    if (answer) container->paused = paused;
    respond(std::move(answer));
  });
}

Result<v3::StateResponse> ForeignTasks::State(const v3::StateRequest& request) {
  ContainerPtr container = TRY(Find(request.id()));
  ProcessPtr process = TRY(FindProcess(request.id(), request.exec_id()));
  const task::Process& known = process->process;
  v3::StateResponse response;
  response.set_id(container->id);
  response.set_exec_id(known.exec_id);
  response.set_bundle(container->bundle);
  response.set_pid(static_cast<uint32_t>(known.oci.pid));
  response.set_terminal(known.stdio.terminal);
  response.set_stdin(known.stdio.in_path);
  response.set_stdout(known.stdio.out_path);
  response.set_stderr(known.stdio.err_path);
  response.set_status(known.exited ? Status::STOPPED : !process->started ? Status::CREATED : container->paused ? Status::PAUSED : Status::RUNNING);
  response.set_exit_status(known.exit_status);
  if (!known.exited) return response;
  task::SetTime(known.exited_at_nanos, response.mutable_exited_at());
  return response;
}

Result<wkt::Empty> ForeignTasks::CloseIo(const v3::CloseIORequest& request) {
  ContainerPtr container = TRY(Find(request.id()));
  ProcessPtr process = TRY(FindProcess(request.id(), request.exec_id()));
  if (!request.stdin()) return wkt::Empty();
  process->process.CloseStdin();
  // The shim keeps a writing end of its own until it is told. What is in the FIFO still reaches the process.
  container->shim->Ask<wkt::Empty>("CloseIO", request, kShimForwardMillis, [](Result<wkt::Empty>) {});
  return wkt::Empty();
}

void ForeignTasks::RegisterTask(ttrpc::Server* server, const char* service, const std::function<void()>& on_shutdown) {
  ServeCall<v3::CreateTaskRequest, v3::CreateTaskResponse>(server, service, "Create", [this](const auto& request, auto respond) { Create(request, std::move(respond)); });
  ServeCall<v3::StartRequest, v3::StartResponse>(server, service, "Start", [this](const auto& request, auto respond) { Start(request, std::move(respond)); });
  ServeCall<v3::ExecProcessRequest, wkt::Empty>(server, service, "Exec", [this](const auto& request, auto respond) { Exec(request, std::move(respond)); });
  ServeCall<v3::WaitRequest, v3::WaitResponse>(server, service, "Wait", [this](const auto& request, auto respond) { Wait(request, std::move(respond)); });
  ServeCall<v3::KillRequest, wkt::Empty>(server, service, "Kill", [this](const auto& request, auto respond) { Kill(request, std::move(respond)); });
  ServeCall<v3::DeleteRequest, v3::DeleteResponse>(server, service, "Delete", [this](const auto& request, auto respond) { Delete(request, std::move(respond)); });
  ServeCall<v3::StateRequest, v3::StateResponse>(server, service, "State", [this](const auto& request, auto respond) { respond(State(request)); });
  ServeCall<v3::CloseIORequest, wkt::Empty>(server, service, "CloseIO", [this](const auto& request, auto respond) { respond(CloseIo(request)); });
  ServeCall<v3::PauseRequest, wkt::Empty>(server, service, "Pause", [this](const auto& request, auto respond) { Freeze("Pause", request.id(), true, std::move(respond)); });
  ServeCall<v3::ResumeRequest, wkt::Empty>(server, service, "Resume", [this](const auto& request, auto respond) { Freeze("Resume", request.id(), false, std::move(respond)); });
  Forward<v3::PidsRequest, v3::PidsResponse>(server, service, "Pids");
  Forward<v3::StatsRequest, v3::StatsResponse>(server, service, "Stats");
  Forward<v3::UpdateTaskRequest, wkt::Empty>(server, service, "Update");
  Forward<v3::ResizePtyRequest, wkt::Empty>(server, service, "ResizePty");
  ServeCall<v3::ConnectRequest, v3::ConnectResponse>(server, service, "Connect", [this](const auto& request, auto respond) {
    v3::ConnectResponse response;
    response.set_shim_pid(static_cast<uint32_t>(getpid()));
    response.set_version("v2");
    if (auto process = FindProcess(request.id(), "")) response.set_task_pid(static_cast<uint32_t>((*process)->process.oci.pid));
    respond(std::move(response));
  });
  ServeCall<v3::ShutdownRequest, wkt::Empty>(server, service, "Shutdown", [on_shutdown](const auto& request, auto respond) {
    respond(wkt::Empty());
    if (request.now()) on_shutdown();
  });
  server->Handle(service, "Checkpoint", [](std::string_view, ttrpc::Reply reply) {
    reply(MakeError(Code::kUnimplemented, "checkpointing a container of another project's shim is not supported"));
  });
}

Result<pod::v1::ContainerInfoResponse> ForeignTasks::Info(const pod::v1::ContainerInfoRequest& request) {
  ContainerPtr container = TRY(Find(request.container_id()));
  const task::Process& init = container->init->process;
  pod::v1::ContainerInfoResponse response;
  response.set_pid(static_cast<uint32_t>(init.oci.pid));
  response.set_created_at_nanos(container->created_at_nanos);
  response.set_started_at_nanos(init.started_at_nanos);
  response.set_finished_at_nanos(init.exited_at_nanos);
  response.set_exit_code(static_cast<int32_t>(init.exit_status));
  response.set_oom_killed(container->oom_killed);
  response.set_running(container->init->started && !init.exited);
  if (!container->init->ended_with_shim) return response;
  response.set_end_reason(end_.reason);
  response.set_end_message(end_.message);
  return response;
}

Result<bool> ForeignTasks::Attach(const pod::v1::AttachRequest& request) {
  ContainerPtr container = TRY(Find(request.container_id()));
  const task::Process& init = container->init->process;
  if (!container->own_stdio) return MakeError(Code::kFailedPrecondition, "the stdio of container '{}' is another's", container->id);
  if (init.exited || !container->init->started) return MakeError(Code::kFailedPrecondition, "container '{}' is not running", container->id);
  if (!container->attachments) container->attachments = std::make_unique<task::Attachments>(loop_, &scratch_);
  UniqueFd writer;
  if (init.stdin_writer && !request.stdin_path().empty()) {
    writer = UniqueFd(fcntl(init.stdin_writer.get(), F_DUPFD_CLOEXEC, 3));
    if (!writer) return ErrnoError("duplicate the stdin of container '{}'", container->id);
  }
  bool has_stdin = writer.valid();
  TRY(container->attachments->Add(request.attach_id(), {request.life_path(), request.stdin_path(), request.stdout_path(), request.stderr_path()},
                                  std::move(writer)));
  return has_stdin;
}

void ForeignTasks::AddFromGroup(const ForeignContainer& container, bool detail, pod::v1::ContainerStats* stats) const {
  auto group = GroupOf(container);
  if (!group) return;
  if (auto use = (*group)->Stats(oci::StatsPart::kUsage)) {
    const pod::v1::ContainerStats read = task::StatsOfGroup(*use);
    if (read.has_cpu_pressure()) *stats->mutable_cpu_pressure() = read.cpu_pressure();
    if (read.has_memory_pressure()) *stats->mutable_memory_pressure() = read.memory_pressure();
    if (read.has_io_pressure()) *stats->mutable_io_pressure() = read.io_pressure();
  }
  if (!detail) return;
  if (auto pids = (*group)->Pids()) stats->mutable_detail()->set_processes(pids->size());
}

void ForeignTasks::Stats(const pod::v1::StatsRequest& request, Respond<pod::v1::StatsResponse> respond) {
  struct Collection {
    pod::v1::StatsResponse response;
    size_t awaited = 1;  // this function's own
    Result<> failed;
  };
  auto collection = std::make_shared<Collection>();
  const bool one = !request.container_id().empty(), detail = request.detail();
  auto finish = [collection, one, respond] {
    if (--collection->awaited > 0) return;
    if (one && !collection->failed) return respond(std::move(collection->failed.error()));
    respond(std::move(collection->response));
  };
  collection->response.set_timestamp_nanos(NowNanos());
  if (request.pod() && !pod_.cgroup_parent.empty()) {
    if (auto stats = task::StatsOfPod(pod_.cgroup_parent)) *collection->response.mutable_pod() = std::move(*stats);
  }
  if (auto known = one ? Find(request.container_id()) : Result<ContainerPtr>(ContainerPtr()); !known) return respond(std::move(known.error()));
  for (const auto& [id, container] : containers_) {
    if (!container->created || !container->own_stdio || container->init->exiting || (one && id != request.container_id())) continue;
    ++collection->awaited;
    v3::StatsRequest ask;
    ask.set_id(id);
    container->shim->Ask<v3::StatsResponse>("Stats", ask, kFiguresMillis, [this, collection, finish, detail, container = container](Result<v3::StatsResponse> answer) {
      auto stats = answer ? StatsOfMetrics(answer->stats(), detail) : Result<pod::v1::ContainerStats>(std::move(answer.error()));
      if (stats) {
        AddFromGroup(*container, detail, &*stats);
        stats->set_container_id(container->id);
        stats->set_timestamp_nanos(NowNanos());
        *collection->response.add_containers() = std::move(*stats);
      } else {
        collection->failed = std::move(stats.error());
      }
      finish();
    });
  }
  finish();
}

void ForeignTasks::RegisterPod(ttrpc::Server* server) {
  namespace v1 = pod::v1;
  sync_execs_ = std::make_shared<task::SyncExecs>(std::make_shared<Execs>(this));
  ServeCall<v1::ExecSyncRequest, v1::ExecSyncResponse>(server, kPodService, "ExecSync", [this](const auto& request, auto respond) { sync_execs_->Start(request, std::move(respond)); });
  ServeCall<v1::ExecSyncMoreRequest, v1::ExecSyncResponse>(server, kPodService, "ExecSyncMore", [this](const auto& request, auto respond) { sync_execs_->More(request, std::move(respond)); });
  ServeCall<v1::ContainerInfoRequest, v1::ContainerInfoResponse>(server, kPodService, "ContainerInfo", [this](const auto& request, auto respond) { respond(Info(request)); });
  ServeCall<v1::StatsRequest, v1::StatsResponse>(server, kPodService, "Stats", [this](const auto& request, auto respond) { Stats(request, std::move(respond)); });
  ServeCall<v1::WaitAttachRequest, v1::WaitAttachResponse>(server, kPodService, "WaitAttach", [this](const auto& request, auto respond) {
    auto container = Find(request.container_id());
    if (!container) return respond(std::move(container.error()));
    task::AnswerWaitAttach((*container)->attachments.get(), request, std::move(respond));
  });
  ServeCall<v1::AttachRequest, v1::AttachResponse>(server, kPodService, "Attach", [this](const auto& request, auto respond) {
    auto attached = Attach(request);
    if (!attached) return respond(std::move(attached.error()));
    v1::AttachResponse response;
    response.set_stdin(*attached);
    respond(std::move(response));
  });
  ServeCall<v1::ReopenLogRequest, v1::ReopenLogResponse>(server, kPodService, "ReopenLog", [this](const auto& request, auto respond) {
    auto container = Find(request.container_id());
    if (!container) return respond(std::move(container.error()));
    respond(task::AnswerReopenLog((*container)->log.get(), request));
  });
}

void ForeignTasks::Register(ttrpc::Server* server, const std::function<void()>& on_shutdown) {
  RegisterTask(server, "containerd.task.v2.Task", on_shutdown);
  RegisterTask(server, "containerd.task.v3.Task", on_shutdown);
  RegisterPod(server);
}

}  // namespace caisson::shim

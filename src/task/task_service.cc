// SPDX-License-Identifier: Apache-2.0
#include "task/task_service.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/task_v3.pb.h"
#include "task/checkpoint.h"
#include "task/metrics.h"
#include "task/timestamp.h"

namespace caisson::task {
namespace {

namespace v3 = containerd::task::v3;
using containerd::v1::types::Status;

template <class Response>
using Respond = std::function<void(Result<Response>)>;

Status StatusOf(const Task& task, const Process& process) {
  if (process.exited) return Status::STOPPED;
  if (process.started_at_nanos == 0) return Status::CREATED;
  return task.paused ? Status::PAUSED : Status::RUNNING;
}

class Service {
 public:
  Service(Tasks* tasks, std::function<void()> on_shutdown) : tasks_(tasks), on_shutdown_(std::move(on_shutdown)) {}

  void Create(const v3::CreateTaskRequest& request, Respond<v3::CreateTaskResponse> respond) {
    auto create = std::make_shared<CreateRequest>();
    auto read = ReadCreate(request, create.get());
    if (!read) return respond(std::move(read.error()));
    WithLogProgram(create->id, &create->stdio, [tasks = tasks_, create, respond](Result<> ready) {
      if (!ready) return respond(std::move(ready.error()));
      auto task = tasks->Create(std::move(*create));
      if (!task) return respond(std::move(task.error()));
      v3::CreateTaskResponse response;
      response.set_pid(static_cast<uint32_t>((*task)->init.oci.pid));
      respond(std::move(response));
    });
  }

  static Result<> ReadCreate(const v3::CreateTaskRequest& request, CreateRequest* out) {
    CreateRequest& create = *out;
    create.id = request.id();
    create.checkpoint = request.checkpoint();
    create.bundle = request.bundle();
    for (const auto& mount : request.rootfs()) {
      if (!mount.target().empty()) return MakeError(Code::kUnimplemented, "a rootfs mount on '{}', not on the root itself", mount.target());
      create.rootfs.push_back({mount.type(), mount.source(), {mount.options().begin(), mount.options().end()}});
    }
    create.stdio.terminal = request.terminal();
    create.stdio.in_path = request.stdin();
    create.stdio.out_path = request.stdout();
    create.stdio.err_path = request.stderr();
    return ReadOptions(request.options(), &create);
  }

  // `then` runs at once unless the output goes to a log program, which is started first.
  void WithLogProgram(const std::string& id, StdioRequest* stdio, std::function<void(Result<>)> then) {
    // Who is called back keeps `stdio`.
    LogProgram::StartFor(tasks_->loop(), stdio->out_path, stdio->err_path, id, tasks_->options().containerd_namespace,
                         [stdio, then = std::move(then)](Result<std::shared_ptr<LogProgram>> program) {
                           if (!program) return then(std::move(program.error()));
                           stdio->log_program = std::move(*program);
                           then({});
                         });
  }

  void Start(const v3::StartRequest& request, Respond<v3::StartResponse> respond) {
    auto task = tasks_->Find(request.id());
    auto process = tasks_->FindProcess(request.id(), request.exec_id());
    if (!process) return respond(std::move(process.error()));
    // It may have to wait, and the process be another by then.
    auto answer = [tasks = tasks_, id = request.id(), exec_id = request.exec_id(), respond](Result<> started) {
      auto process = tasks->FindProcess(id, exec_id);
      if (started && !process) started = std::move(process.error());
      if (!started) return respond(std::move(started.error()));
      v3::StartResponse response;
      response.set_pid(static_cast<uint32_t>((*process)->oci.pid));
      respond(std::move(response));
    };
    if (*process == &(*task)->init) return tasks_->Start(*task, answer);
    answer(tasks_->StartExec(*task, *process));
  }

  void Checkpoint(const v3::CheckpointTaskRequest& request, Respond<wkt::Empty> respond) {
    auto task = tasks_->Find(request.id());
    if (!task) return respond(std::move(task.error()));
    CheckpointRequest checkpoint;
    checkpoint.images_path = request.path();
    auto read = ReadOptions(request.options(), &checkpoint);
    if (!read) return respond(std::move(read.error()));
    Dump(tasks_, tasks_->loop(), *task, checkpoint, [tasks = tasks_, id = request.id(), path = checkpoint.images_path, respond](Result<> dumped) {
      if (!dumped) return respond(std::move(dumped.error()));
      if (auto task = tasks->Find(id)) tasks->Checkpointed(*task, path);
      respond(wkt::Empty());
    });
  }

  void Exec(const v3::ExecProcessRequest& request, Respond<wkt::Empty> respond) {
    auto task = tasks_->Find(request.id());
    if (!task) return respond(std::move(task.error()));
    if (request.exec_id().empty()) return respond(MakeError(Code::kInvalidArgument, "the exec has no id"));
    auto process = oci::ParseProcess(request.spec().value());
    if (!process) return respond(std::move(process.error()));
    auto stdio = std::make_shared<StdioRequest>();
    stdio->io_uid = (*task)->init.stdio.io_uid;
    stdio->io_gid = (*task)->init.stdio.io_gid;
    stdio->terminal = request.terminal();
    stdio->in_path = request.stdin();
    stdio->out_path = request.stdout();
    stdio->err_path = request.stderr();
    auto options = std::make_shared<oci::ExecOptions>();
    options->process = std::move(*process);
    WithLogProgram(request.id(), stdio.get(), [tasks = tasks_, id = request.id(), exec_id = request.exec_id(), options, stdio, respond](Result<> ready) {
      auto task = tasks->Find(id);
      if (ready && !task) ready = std::move(task.error());
      if (!ready) return respond(std::move(ready.error()));
      auto added = tasks->AddExec(*task, exec_id, std::move(*options), std::move(*stdio));
      if (!added) return respond(std::move(added.error()));
      respond(wkt::Empty());
    });
  }

  Result<v3::DeleteResponse> Delete(const v3::DeleteRequest& request) {
    Task* task = TRY(tasks_->Find(request.id()));
    Process* process = TRY(tasks_->FindProcess(request.id(), request.exec_id()));
    v3::DeleteResponse response;
    auto fill = [&](const Process& ended) {
      response.set_pid(static_cast<uint32_t>(ended.oci.pid));
      response.set_exit_status(ended.exit_status);
      SetTime(ended.exited_at_nanos, response.mutable_exited_at());
    };
    if (request.exec_id().empty()) {
      TRY(tasks_->Delete(task));  // the task itself goes when this event is over
      fill(*process);
      return response;
    }
    if (!process->exited && !process->prepared) {
      return MakeError(Code::kFailedPrecondition, "process '{}' is running", request.exec_id());
    }
    fill(*process);
    tasks_->Forget(task, request.exec_id());
    return response;
  }

  Result<v3::StateResponse> State(const v3::StateRequest& request) {
    Task* task = TRY(tasks_->Find(request.id()));
    Process* process = TRY(tasks_->FindProcess(request.id(), request.exec_id()));
    v3::StateResponse response;
    response.set_id(task->id);
    response.set_exec_id(process->exec_id);
    response.set_bundle(task->bundle);
    response.set_pid(static_cast<uint32_t>(process->oci.pid));
    response.set_status(StatusOf(*task, *process));
    response.set_terminal(process->stdio.terminal);
    response.set_stdin(process->stdio.in_path);
    response.set_stdout(process->stdio.out_path);
    response.set_stderr(process->stdio.err_path);
    response.set_exit_status(process->exit_status);
    if (process->exited) SetTime(process->exited_at_nanos, response.mutable_exited_at());
    return response;
  }

  void Wait(const v3::WaitRequest& request, Respond<v3::WaitResponse> respond) {
    auto process = tasks_->FindProcess(request.id(), request.exec_id());
    if (!process) return respond(std::move(process.error()));
    tasks_->Wait(*process, [respond = std::move(respond)](const Process& ended) {
      v3::WaitResponse response;
      response.set_exit_status(ended.exit_status);
      SetTime(ended.exited_at_nanos, response.mutable_exited_at());
      respond(std::move(response));
    });
  }

  Result<wkt::Empty> Kill(const v3::KillRequest& request) {
    Task* task = TRY(tasks_->Find(request.id()));
    TRY(tasks_->Kill(task, request.exec_id(), static_cast<int>(request.signal()), request.all()));
    return wkt::Empty();
  }

  Result<v3::PidsResponse> Pids(const v3::PidsRequest& request) {
    Task* task = TRY(tasks_->Find(request.id()));
    v3::PidsResponse response;
    for (int pid : TRY(task->container->Pids())) {
      auto* process = response.add_processes();
      process->set_pid(static_cast<uint32_t>(pid));
      for (const auto& [exec_id, exec] : task->execs) {
        if (exec->oci.pid != pid || exec->exited) continue;
        containerd::runc::v1::ProcessDetails details;  // what containerd's clients look for
        details.set_exec_id(exec_id);
        process->mutable_info()->set_type_url(details.GetTypeName());
        process->mutable_info()->set_value(details.SerializeAsString());
      }
    }
    return response;
  }

  Result<wkt::Empty> Pause(const v3::PauseRequest& request) {
    Task* task = TRY(tasks_->Find(request.id()));
    TRY(tasks_->Pause(task));
    return wkt::Empty();
  }

  Result<wkt::Empty> Resume(const v3::ResumeRequest& request) {
    Task* task = TRY(tasks_->Find(request.id()));
    TRY(tasks_->Resume(task));
    return wkt::Empty();
  }

  // containerd sends the resources as JSON of the OCI type in an Any.
  Result<wkt::Empty> Update(const v3::UpdateTaskRequest& request) {
    Task* task = TRY(tasks_->Find(request.id()));
    TRY(task->container->Update(request.resources().value()));
    return wkt::Empty();
  }

  Result<v3::StatsResponse> Stats(const v3::StatsRequest& request) {
    Task* task = TRY(tasks_->Find(request.id()));
    v3::StatsResponse response;
    FillMetrics(TRY(task->container->Stats(oci::StatsPart::kAll)), task->container->cgroup()->IsV2(), response.mutable_stats());
    return response;
  }

  Result<wkt::Empty> CloseIo(const v3::CloseIORequest& request) {
    Process* process = TRY(tasks_->FindProcess(request.id(), request.exec_id()));
    if (request.stdin()) process->CloseStdin();
    return wkt::Empty();
  }

  Result<wkt::Empty> Resize(const v3::ResizePtyRequest& request) {
    Process* process = TRY(tasks_->FindProcess(request.id(), request.exec_id()));
    if (!process->oci.console) return MakeError(Code::kFailedPrecondition, "the process has no terminal");
    winsize size{static_cast<uint16_t>(request.height()), static_cast<uint16_t>(request.width()), 0, 0};
    if (ioctl(process->oci.console.get(), TIOCSWINSZ, &size) != 0) return ErrnoError("resize the terminal");
    return wkt::Empty();
  }

  Result<v3::ConnectResponse> Connect(const v3::ConnectRequest& request) {
    v3::ConnectResponse response;
    response.set_shim_pid(static_cast<uint32_t>(getpid()));
    response.set_version("v2");
    if (auto task = tasks_->Find(request.id())) response.set_task_pid(static_cast<uint32_t>((*task)->init.oci.pid));
    return response;
  }

  Result<wkt::Empty> Shutdown(const v3::ShutdownRequest& request) {
    if (request.now() || tasks_->all().empty()) on_shutdown_();
    return wkt::Empty();
  }

 private:
  static Result<> ReadOptions(const wkt::Any& any, CheckpointRequest* checkpoint) {
    if (any.type_url().ends_with("caisson.pod.v1.CheckpointOptions")) {
      pod::v1::CheckpointOptions options;
      if (!options.ParseFromString(any.value())) return MakeError(Code::kInvalidArgument, "the CheckpointOptions do not parse");
      checkpoint->criu_path = options.criu_path();
      checkpoint->deadline_millis = options.deadline_millis();
      checkpoint->hold_millis = options.hold_millis();
    } else if (any.type_url().ends_with("containerd.runc.v1.CheckpointOptions")) {
      containerd::runc::v1::CheckpointOptions options;
      if (!options.ParseFromString(any.value())) return MakeError(Code::kInvalidArgument, "the runc checkpoint options do not parse");
      if (options.exit()) return MakeError(Code::kUnimplemented, "a checkpoint that ends the container is not supported");
      if (!options.image_path().empty()) checkpoint->images_path = options.image_path();
      checkpoint->work_path = options.work_path();
    }
    return {};
  }

  static Result<> ReadRuncOptions(const containerd::runc::v1::Options& options, CreateRequest* create) {
    TRY(CheckRuncOptions(create->id, options));
    create->systemd_cgroup = options.systemd_cgroup();
    create->stdio.io_uid = options.io_uid();
    create->stdio.io_gid = options.io_gid();
    return {};
  }

  static Result<> ReadOptions(const wkt::Any& any, CreateRequest* create) {
    if (any.type_url().ends_with(kCreateOptionsType)) {
      pod::v1::CreateOptions options;
      if (!options.ParseFromString(any.value())) return MakeError(Code::kInvalidArgument, "container '{}': its CreateOptions do not parse", create->id);
      create->own_stdio = true;
      create->log_path = options.log_path();
      create->criu_path = options.criu_path();
      create->log_max_line_bytes = static_cast<size_t>(std::max<int64_t>(0, options.log_max_line_bytes()));
      create->stdio.keep_stdin = options.stdin();
      create->stdio.terminal = options.terminal();
      create->stdio.in_path = create->stdio.out_path = create->stdio.err_path = "";
    } else if (any.type_url().ends_with("containerd.runc.v1.Options")) {
      containerd::runc::v1::Options options;
      if (!options.ParseFromString(any.value())) return MakeError(Code::kInvalidArgument, "container '{}': its runc options do not parse", create->id);
      return ReadRuncOptions(options, create);
    }
    return {};  // others are for other shims
  }

  Tasks* tasks_;
  std::function<void()> on_shutdown_;
};

template <class Request, class Response>
void Add(ttrpc::Server* server, const char* method, std::shared_ptr<Service> service, Result<Response> (Service::*call)(const Request&)) {
  for (const char* name : {"containerd.task.v2.Task", "containerd.task.v3.Task"}) {
    server->HandleTyped<Request, Response>(name, method, [service, call](const Request& request, Respond<Response> respond) {
      respond((*service.*call)(request));
    });
  }
}

}  // namespace

Result<> CheckRuncOptions(const std::string& container_id, const containerd::runc::v1::Options& options) {
  auto refuse = [&](const char* name, const char* why) {
    return MakeError(Code::kUnimplemented, "container '{}': the runc option '{}' is not supported: {}", container_id, name, why);
  };
  if (options.no_pivot_root()) return refuse("no_pivot_root", "the root is always entered by pivot_root");
  if (options.no_new_keyring()) return refuse("no_new_keyring", "a container always has a session keyring of its own");
  if (!options.binary_name().empty()) return refuse("binary_name", "this shim starts containers itself");
  return {};
}

void RegisterTaskService(ttrpc::Server* server, Tasks* tasks, std::function<void()> on_shutdown) {
  auto service = std::make_shared<Service>(tasks, std::move(on_shutdown));
  Add(server, "Delete", service, &Service::Delete);
  Add(server, "State", service, &Service::State);
  Add(server, "Kill", service, &Service::Kill);
  Add(server, "Pids", service, &Service::Pids);
  Add(server, "Pause", service, &Service::Pause);
  Add(server, "Resume", service, &Service::Resume);
  Add(server, "Update", service, &Service::Update);
  Add(server, "Stats", service, &Service::Stats);
  Add(server, "CloseIO", service, &Service::CloseIo);
  Add(server, "ResizePty", service, &Service::Resize);
  Add(server, "Connect", service, &Service::Connect);
  Add(server, "Shutdown", service, &Service::Shutdown);
  for (const char* name : {"containerd.task.v2.Task", "containerd.task.v3.Task"}) {
    server->HandleTyped<v3::CreateTaskRequest, v3::CreateTaskResponse>(name, "Create", [service](const v3::CreateTaskRequest& request, Respond<v3::CreateTaskResponse> respond) {
      service->Create(request, std::move(respond));
    });
    server->HandleTyped<v3::ExecProcessRequest, wkt::Empty>(name, "Exec", [service](const v3::ExecProcessRequest& request, Respond<wkt::Empty> respond) {
      service->Exec(request, std::move(respond));
    });
    server->HandleTyped<v3::WaitRequest, v3::WaitResponse>(name, "Wait", [service](const v3::WaitRequest& request, Respond<v3::WaitResponse> respond) {
      service->Wait(request, std::move(respond));
    });
    server->HandleTyped<v3::StartRequest, v3::StartResponse>(name, "Start", [service](const v3::StartRequest& request, Respond<v3::StartResponse> respond) {
      service->Start(request, std::move(respond));
    });
    server->HandleTyped<v3::CheckpointTaskRequest, wkt::Empty>(name, "Checkpoint", [service](const v3::CheckpointTaskRequest& request, Respond<wkt::Empty> respond) {
      service->Checkpoint(request, std::move(respond));
    });
  }
}

}  // namespace caisson::task

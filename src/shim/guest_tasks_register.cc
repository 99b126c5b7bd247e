// SPDX-License-Identifier: Apache-2.0
// The methods of GuestTasks' services.
#include <unistd.h>

#include "base/clock.h"
#include "shim/guest_spec.h"
#include "shim/guest_tasks.h"
#include "task/pod_service.h"

namespace caisson::shim {
namespace {

namespace v3 = containerd::task::v3;

// From the end of an ExecSync's own deadline to that of its call.
constexpr int64_t kExecSyncGraceMillis = 15'000;

template <class Request, class Response, class Call>
void Add(ttrpc::Server* server, const char* service, const char* method, Call call) {
  server->HandleTyped<Request, Response>(service, method, [call](const Request& request, std::function<void(Result<Response>)> respond) {
    call(request, std::move(respond));
  });
}

}  // namespace

void GuestTasks::Forward(ttrpc::Server* server, const char* service, const char* method) {
  // Version 2 of Task has the same messages; the agent serves both.
  server->Handle(service, method, [this, service, method](std::string_view payload, ttrpc::Reply reply) {
    client_->Call(service, method, std::string(payload), GuestClient::kTimeoutMillis, std::move(reply));
  });
}

void GuestTasks::RegisterTask(ttrpc::Server* server, const char* service, const std::function<void()>& on_shutdown) {
  Add<v3::CreateTaskRequest, v3::CreateTaskResponse>(server, service, "Create", [this](const auto& request, auto respond) { Create(request, std::move(respond)); });
  Add<v3::StartRequest, v3::StartResponse>(server, service, "Start", [this](const auto& request, auto respond) { Start(request, std::move(respond)); });
  Add<v3::ExecProcessRequest, wkt::Empty>(server, service, "Exec", [this](const auto& request, auto respond) { Exec(request, std::move(respond)); });
  Add<v3::WaitRequest, v3::WaitResponse>(server, service, "Wait", [this](const auto& request, auto respond) { Wait(request, std::move(respond)); });
  Add<v3::DeleteRequest, v3::DeleteResponse>(server, service, "Delete", [this](const auto& request, auto respond) { Delete(request, std::move(respond)); });
  Add<v3::StateRequest, v3::StateResponse>(server, service, "State", [this](const auto& request, auto respond) { State(request, std::move(respond)); });
  Add<v3::KillRequest, wkt::Empty>(server, service, "Kill", [this](const auto& request, auto respond) { Kill(request.SerializeAsString(), std::move(respond)); });
  Add<v3::CloseIORequest, wkt::Empty>(server, service, "CloseIO", [this](const auto& request, auto respond) { respond(CloseIo(request)); });
  Add<v3::UpdateTaskRequest, wkt::Empty>(server, service, "Update", [this](const auto& request, auto respond) {
    v3::UpdateTaskRequest update = request;
    auto resources = MakeGuestResources(request.resources().value());
    if (!resources) return respond(std::move(resources.error()));
    update.mutable_resources()->set_value(std::move(*resources));
    client_->Call<wkt::Empty>(guest_service::kTask, "Update", update, GuestClient::kTimeoutMillis, std::move(respond));
  });
  Add<v3::ConnectRequest, v3::ConnectResponse>(server, service, "Connect", [this](const auto& request, auto respond) {
    v3::ConnectResponse response;
    response.set_shim_pid(static_cast<uint32_t>(getpid()));
    response.set_version("v2");
    if (auto process = FindProcess(request.id(), "")) response.set_task_pid((*process)->pid);
    respond(std::move(response));
  });
  Add<v3::ShutdownRequest, wkt::Empty>(server, service, "Shutdown", [this, on_shutdown](const auto& request, auto respond) {
    bool end = request.now() || containers_.empty();
    respond(wkt::Empty());
    if (end) on_shutdown();
  });
  for (const char* method : {"Pids", "Pause", "Resume", "Stats", "ResizePty"}) Forward(server, service, method);
  server->Handle(service, "Checkpoint", [](std::string_view, ttrpc::Reply reply) {
    reply(MakeError(Code::kUnimplemented, "checkpointing a container of a VM pod is not supported"));
  });
}

void GuestTasks::RegisterPod(ttrpc::Server* server) {
  constexpr char kService[] = "caisson.pod.v1.Pod";
  namespace v1 = pod::v1;
  for (const char* method : {"ExecSyncMore", "Stats"}) Forward(server, "caisson.pod.v1.Pod", method);
  Add<v1::ExecSyncRequest, v1::ExecSyncResponse>(server, kService, "ExecSync", [this](const auto& request, auto respond) {
    int64_t timeout = request.timeout_nanos() > 0 ? request.timeout_nanos() / kNanosPerMilli + kExecSyncGraceMillis : ttrpc::Client::kNoTimeout;
    client_->Call<v1::ExecSyncResponse>(guest_service::kPod, "ExecSync", request, timeout, std::move(respond));
  });
  Add<v1::ContainerInfoRequest, v1::ContainerInfoResponse>(server, kService, "ContainerInfo", [this](const auto& request, auto respond) { Info(request, std::move(respond)); });
  Add<v1::ForwardRequest, v1::ForwardResponse>(server, kService, "Forward", [this](const auto& request, auto respond) { forwards_.Start(request, std::move(respond)); });
  Add<v1::AttachRequest, v1::AttachResponse>(server, kService, "Attach", [this](const auto& request, auto respond) {
    auto attached = Attach(request);
    if (!attached) return respond(std::move(attached.error()));
    v1::AttachResponse response;
    response.set_stdin(*attached);
    respond(std::move(response));
  });
  Add<v1::WaitAttachRequest, v1::WaitAttachResponse>(server, kService, "WaitAttach", [this](const auto& request, auto respond) {
    auto container = Find(request.container_id());
    if (!container) return respond(std::move(container.error()));
    task::AnswerWaitAttach((*container)->attachments.get(), request, std::move(respond));
  });
  Add<v1::ReopenLogRequest, v1::ReopenLogResponse>(server, kService, "ReopenLog", [this](const auto& request, auto respond) {
    auto container = Find(request.container_id());
    if (!container) return respond(std::move(container.error()));
    respond(task::AnswerReopenLog((*container)->log.get(), request));
  });
}

void GuestTasks::Register(ttrpc::Server* server, const std::function<void()>& on_shutdown) {
  RegisterTask(server, "containerd.task.v2.Task", on_shutdown);
  RegisterTask(server, "containerd.task.v3.Task", on_shutdown);
  RegisterPod(server);
}

}  // namespace caisson::shim

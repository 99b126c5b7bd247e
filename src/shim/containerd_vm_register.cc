// SPDX-License-Identifier: Apache-2.0
// The methods of ContainerdVm's services.
#include <unistd.h>

#include "shim/containerd_vm.h"

namespace caisson::shim {
namespace {

namespace v3 = containerd::task::v3;

template <class Request, class Response, class Call>
void AddMethod(ttrpc::Server* server, const char* service, const char* method, Call call) {
  server->HandleTyped<Request, Response>(service, method, [call](const Request& request, std::function<void(Result<Response>)> respond) {
    call(request, std::move(respond));
  });
}

}  // namespace

void ContainerdVm::RegisterTask(ttrpc::Server* server, const char* service, const std::function<void()>& on_shutdown) {
  AddMethod<v3::CreateTaskRequest, v3::CreateTaskResponse>(server, service, "Create", [this](const auto& request, auto respond) { Create(request, std::move(respond)); });
  AddMethod<v3::StartRequest, v3::StartResponse>(server, service, "Start", [this](const auto& request, auto respond) { Start(request, std::move(respond)); });
  AddMethod<v3::ExecProcessRequest, wkt::Empty>(server, service, "Exec", [this](const auto& request, auto respond) { Exec(request, std::move(respond)); });
  AddMethod<v3::WaitRequest, v3::WaitResponse>(server, service, "Wait", [this](const auto& request, auto respond) { Wait(request, std::move(respond)); });
  AddMethod<v3::KillRequest, wkt::Empty>(server, service, "Kill", [this](const auto& request, auto respond) { Kill(request, std::move(respond)); });
  AddMethod<v3::DeleteRequest, v3::DeleteResponse>(server, service, "Delete", [this](const auto& request, auto respond) { Delete(request, std::move(respond)); });
  AddMethod<v3::StateRequest, v3::StateResponse>(server, service, "State", [this](const auto& request, auto respond) { State(request, std::move(respond)); });
  AddMethod<v3::StatsRequest, v3::StatsResponse>(server, service, "Stats", [this](const auto& request, auto respond) { Stats(request, std::move(respond)); });
  AddMethod<v3::ConnectRequest, v3::ConnectResponse>(server, service, "Connect", [this](const auto& request, auto respond) {
    v3::ConnectResponse response;
    response.set_shim_pid(static_cast<uint32_t>(getpid()));
    response.set_version("v2");
    if (auto container = Find(request.id())) response.set_task_pid(static_cast<uint32_t>((*container)->known.init.oci.pid));
    respond(std::move(response));
  });
  AddMethod<v3::ShutdownRequest, wkt::Empty>(server, service, "Shutdown", [this, on_shutdown](const auto& request, auto respond) {
    // A sandbox ends by its own service: it may well be without containers for a while.
    bool end = !(by_service_ && pod_.active()) && (request.now() || containers_.empty());
    respond(wkt::Empty());
    if (end) on_shutdown();
  });
  RegisterRest(server, service);
}

void ContainerdVm::RegisterRest(ttrpc::Server* server, const char* service) {
  AddMethod<v3::PauseRequest, wkt::Empty>(server, service, "Pause", [this](const auto& request, auto respond) { SetPaused("Pause", request.id(), request.SerializeAsString(), std::move(respond)); });
  AddMethod<v3::ResumeRequest, wkt::Empty>(server, service, "Resume", [this](const auto& request, auto respond) { SetPaused("Resume", request.id(), request.SerializeAsString(), std::move(respond)); });
  AddMethod<v3::PidsRequest, v3::PidsResponse>(server, service, "Pids", [this](const auto& request, auto respond) {
    auto container = Find(request.id());
    if (!container) return respond(std::move(container.error()));
    if (!(*container)->machine) return guest_.Call<v3::PidsResponse>(guest_service::kTask, "Pids", request, std::move(respond));
    v3::PidsResponse response;
    response.add_processes()->set_pid(static_cast<uint32_t>((*container)->known.init.oci.pid));
    respond(std::move(response));
  });
  AddMethod<v3::CloseIORequest, wkt::Empty>(server, service, "CloseIO", [this](const auto& request, auto respond) {
    auto container = Find(request.id());
    if (!container) return respond(std::move(container.error()));
    if ((*container)->machine) return respond(wkt::Empty());  // it has none
    guest_.Call<wkt::Empty>(guest_service::kTask, "CloseIO", request, std::move(respond));
  });
  AddMethod<v3::ResizePtyRequest, wkt::Empty>(server, service, "ResizePty", [this](const auto& request, auto respond) {
    auto container = Find(request.id());
    if (!container) return respond(std::move(container.error()));
    if ((*container)->machine) return respond(MakeError(Code::kFailedPrecondition, "the process has no terminal"));
    guest_.Call<wkt::Empty>(guest_service::kTask, "ResizePty", request, std::move(respond));
  });
  AddMethod<v3::UpdateTaskRequest, wkt::Empty>(server, service, "Update", [this](const auto& request, auto respond) {
    auto container = Find(request.id());
    if (!container) return respond(std::move(container.error()));
    if ((*container)->machine) return respond(MakeError(Code::kUnimplemented, "the size of the pod's virtual machine is not changed in this way"));
    guest_.Call<wkt::Empty>(guest_service::kTask, "Update", request, std::move(respond));
  });
}

void ContainerdVm::Register(ttrpc::Server* server, const std::function<void()>& on_shutdown) {
  pod_.Register(&guest_, [] {});
  // What is not said otherwise below (Checkpoint, caisson.pod.v1.Pod) is the guest's.
  pod_.Register(server, [] {});
  for (const char* service : {"containerd.task.v2.Task", "containerd.task.v3.Task"}) RegisterTask(server, service, on_shutdown);
}

}  // namespace caisson::shim

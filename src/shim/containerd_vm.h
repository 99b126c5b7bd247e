// SPDX-License-Identifier: Apache-2.0
//
// ContainerdVm: a pod that is a virtual machine, for containerd or CRI-O, which know nothing of such: the Task services (versions 2 and 3)
// with what those clients expect beside the containers of VmPod. The Sandbox service makes the machine, or the first container does (vm_request.h). If that one only
// holds the pod (a pause container) nothing runs in its place: the machine stands for it, whose end is its end; and ending it ends the
// machine. Else the machine ends with the last container's removal. It tells of events, and leaves in the bundles what `delete` has to know.
//
// The process id of a container that has a machine's place, or a machine to itself, is this process's, in whose network namespace the pod's
// network is; those of others are the guest's.
//
// One thread, the loop's; the process enters the pod's network namespace.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/task_v3.pb.h"
#include "shim/method_table.h"
#include "shim/shim_settings.h"
#include "shim/vm_pod.h"
#include "shim/vm_request.h"
#include "sys/event_loop.h"
#include "task/tasks.h"
#include "ttrpc/server.h"

namespace caisson::shim {

class ContainerdVm {
 public:
  // `id`: the pod's, which is the group that its containers name. `on_event` may be empty. `loop` outlives it.
  ContainerdVm(std::string id, std::string containerd_namespace, sys::EventLoop* loop, ShimSettings settings, task::EventSink on_event);
  ContainerdVm(const ContainerdVm&) = delete;
  ContainerdVm& operator=(const ContainerdVm&) = delete;
  // The machine ends while there is somebody to be told.
  ~ContainerdVm() { (void)pod_.Stop(kStopMillis); }

  // Before the server listens; it outlives the server. `on_shutdown` runs at Shutdown when no container is left, or with `now`.
  void Register(ttrpc::Server* server, const std::function<void()>& on_shutdown);
  VmPod* pod() { return &pod_; }

 private:
  struct Process {
    task::Process own;
    task::Process* known = &own;  // what events tell of; an init: Container::known's
    bool starting = false, started = false;
    std::optional<containerd::task::v3::WaitResponse> end;  // told when it has started
    bool told = false;
    std::vector<std::function<void()>> then;  // when it has been
  };
  struct Container {
    task::Task known;
    bool machine = false;  // it stands for the machine
    bool paused = false;
    Process init;
    std::map<std::string, std::shared_ptr<Process>> execs;
  };
  using ContainerPtr = std::shared_ptr<Container>;
  using Done = std::function<void(Result<>)>;
  template <class T>
  using Respond = std::function<void(Result<T>)>;

  Result<ContainerPtr> Find(const std::string& id);
  Result<Process*> FindProcess(const ContainerPtr& container, const std::string& exec_id);
  void RegisterTask(ttrpc::Server* server, const char* service, const std::function<void()>& on_shutdown);
  void RegisterRest(ttrpc::Server* server, const char* service);

  void Create(const containerd::task::v3::CreateTaskRequest& request, Respond<containerd::task::v3::CreateTaskResponse> respond);
  // Once: the machine, of the first container's configuration. Who comes meanwhile waits.
  void Boot(const containerd::task::v3::CreateTaskRequest& request, const ContainerPtr& container, Done done);
  Result<VmRequest> PlanMachine(const containerd::task::v3::CreateTaskRequest& request);
  // Of a client that makes the sandbox by its own service.
  Result<pod::v1::SandboxOptions> PlanSandbox(const wkt::Any& any);
  void Booted(Result<> result);
  void Created(const ContainerPtr& container, const containerd::task::v3::CreateTaskRequest& request, uint32_t pid, const Respond<containerd::task::v3::CreateTaskResponse>& respond);
  void Start(const containerd::task::v3::StartRequest& request, Respond<containerd::task::v3::StartResponse> respond);
  void Exec(const containerd::task::v3::ExecProcessRequest& request, Respond<wkt::Empty> respond);
  void Wait(const containerd::task::v3::WaitRequest& request, Respond<containerd::task::v3::WaitResponse> respond);
  void Kill(const containerd::task::v3::KillRequest& request, Respond<wkt::Empty> respond);
  void Delete(const containerd::task::v3::DeleteRequest& request, Respond<containerd::task::v3::DeleteResponse> respond);
  void Remove(const ContainerPtr& container, const containerd::task::v3::DeleteRequest& request, Respond<containerd::task::v3::DeleteResponse> respond);
  void State(const containerd::task::v3::StateRequest& request, Respond<containerd::task::v3::StateResponse> respond);
  void Stats(const containerd::task::v3::StatsRequest& request, Respond<containerd::task::v3::StatsResponse> respond);
  void SetPaused(const char* method, const std::string& id, const std::string& payload, Respond<wkt::Empty> respond);

  // Awaits the process's end in the guest.
  void Watch(const ContainerPtr& container, const std::shared_ptr<Process>& process);
  void OnEnd(const ContainerPtr& container, const std::shared_ptr<Process>& process, const containerd::task::v3::WaitResponse& end);
  void TellEnd(const ContainerPtr& container, const std::shared_ptr<Process>& process);
  // The machine is gone: so is the container that it stands for.
  void OnMachineEnd(uint32_t status);
  uint32_t PidOf(const Container& container, uint32_t in_guest) const;
  static std::shared_ptr<Process> InitOf(const ContainerPtr& container) { return {container, &container->init}; }
  void Publish(task::Event event) {
    if (on_event_) on_event_(std::move(event));
  }

  sys::EventLoop* loop_;
  ShimSettings settings_;
  task::EventSink on_event_;
  VmPod pod_;
  MethodTable guest_;  // pod_'s
  bool booting_ = false;
  std::optional<Result<>> booted_;
  bool sandbox_ = false;  // a container stands for the machine, or none does:
  bool by_service_ = false;  // it is the Sandbox service's
  bool crio_ = false;     // VmRequest's
  std::vector<Done> waiting_;
  std::map<std::string, ContainerPtr> containers_;
};

}  // namespace caisson::shim

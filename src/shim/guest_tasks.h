// SPDX-License-Identifier: Apache-2.0
//
// GuestTasks: the containers of a VM pod as the companion sees them. It serves Task (v2 and v3) and caisson.pod.v1.Pod, as
// task/ does for a native pod; what a container is made of is asked of the agent in the guest, which serves the same; what
// belongs to the host stays here: the log, the clients' FIFOs, the disks, and what is known of each end, so that it can be told
// when there is no guest any more. One thread, the loop's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "caisson/guest/v1/guest.pb.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/task_v3.pb.h"
#include "shim/file_service.h"
#include "shim/guest_client.h"
#include "shim/guest_container.h"
#include "shim/guest_forward.h"
#include "shim/guest_volumes.h"
#include "shim/oom_score.h"
#include "shim/vm_end.h"
#include "sys/event_loop.h"
#include "task/scratch.h"
#include "ttrpc/server.h"
#include "vmm/vm.h"

namespace caisson::shim {

class GuestTasks {
 public:
  // Both outlive it.
  GuestTasks(sys::EventLoop* loop, GuestClient* client) : loop_(loop), client_(client), scratch_(loop), files_(loop, client), volumes_(loop, client, &files_), forwards_(loop, client), oom_score_(OwnOomScore()) {}

  // Before the server listens; it outlives the server.
  void Register(ttrpc::Server* server, const std::function<void()>& on_shutdown);
  // The pod's machine runs. Disks are attached to it.
  void SetVm(vmm::Vm* vm);
  // Processes may be run in the guest itself: Exec in kGuestDebugContainer.
  void AllowDebug();
  // Why the machine has ended, before OnVmEnd; for the containers that end with it.
  void SetEnd(VmEnd end) { end_ = std::move(end); }
  // There is no machine any more; GuestClient has been told. Every process counts as killed.
  void OnVmEnd();
  FileService* files() { return &files_; }
  // Makes the host's specification of a container one that caissond could have written.
  using Adapt = std::function<Result<std::string>(const std::string& config_json)>;
  // The containers are containerd's; `containerd_namespace` is for log programs.
  void ForContainerd(std::string containerd_namespace, Adapt adapt) { containerd_namespace_ = std::move(containerd_namespace), adapt_ = std::move(adapt); }
  // Where compiled seccomp filters are kept (oci/seccomp.h).
  void SetSeccompCache(std::string folder) { seccomp_cache_ = std::move(folder); }
  // The guest is this pod: what containerd, if the containers are its, dials in our network namespace is led into it.
  Result<> OnReady() { return adapt_ ? forwards_.Listen() : Result<>(); }

 private:
  struct Creation;
  using ContainerPtr = std::shared_ptr<GuestContainer>;
  using ProcessPtr = std::shared_ptr<GuestProcess>;
  using CreationPtr = std::shared_ptr<Creation>;
  template <class T>
  using Respond = std::function<void(Result<T>)>;

  Result<ContainerPtr> Find(const std::string& id);
  Result<ProcessPtr> FindProcess(const std::string& id, const std::string& exec_id);

  void RegisterTask(ttrpc::Server* server, const char* service, const std::function<void()>& on_shutdown);
  void RegisterPod(ttrpc::Server* server);
  // Passes a request on as it is.
  void Forward(ttrpc::Server* server, const char* service, const char* method);

  void Create(const containerd::task::v3::CreateTaskRequest& request, Respond<containerd::task::v3::CreateTaskResponse> respond);
  Result<> Plan(const containerd::task::v3::CreateTaskRequest& request, Creation* creation);
  Result<> AttachLayers(const containerd::task::v3::CreateTaskRequest& request, Creation* creation);
  Result<> AttachLayer(const std::string& path, GuestContainer* container);
  Result<> AttachDevice(const GuestDisk& disk, GuestContainer* container);
  // For the container, beside those that have it already.
  Result<> AttachDisk(const std::string& serial, const UniqueFd& fd, bool read_only, GuestContainer* container);
  // The root as a shared folder, where it is not made of layers.
  void PutRoot(const CreationPtr& creation);
  void PutVolumes(const CreationPtr& creation, size_t next);
  // The container's devices get the guest's numbers.
  void NumberDevices(const CreationPtr& creation);
  void Prepare(const CreationPtr& creation);
  void CreateInGuest(const CreationPtr& creation, const guest::v1::PrepareContainerResponse& prepared);
  void Fail(const CreationPtr& creation, Error why);
  // The VMM and the file server are protected as the one of the pod's containers is that is protected most.
  void ApplyOomScore();
  // The guest lets go of what it holds of the container, then its disks go.
  void Release(const ContainerPtr& container);

  void Start(const containerd::task::v3::StartRequest& request, Respond<containerd::task::v3::StartResponse> respond);
  void Exec(containerd::task::v3::ExecProcessRequest request, Respond<wkt::Empty> respond);
  void ExecIn(const ContainerPtr& container, containerd::task::v3::ExecProcessRequest request, Respond<wkt::Empty> respond);
  void AddExec(const ContainerPtr& container, const ProcessPtr& process, containerd::task::v3::ExecProcessRequest request, Respond<wkt::Empty> respond);
  void Wait(const containerd::task::v3::WaitRequest& request, Respond<containerd::task::v3::WaitResponse> respond);
  void Kill(std::string_view payload, Respond<wkt::Empty> respond);
  void Delete(const containerd::task::v3::DeleteRequest& request, Respond<containerd::task::v3::DeleteResponse> respond);
  void State(const containerd::task::v3::StateRequest& request, Respond<containerd::task::v3::StateResponse> respond);
  Result<wkt::Empty> CloseIo(const containerd::task::v3::CloseIORequest& request);
  void Info(const pod::v1::ContainerInfoRequest& request, Respond<pod::v1::ContainerInfoResponse> respond);

  // The host's side of a process's stdio; what flows begins with StartStdio.
  Result<> OpenStdio(const ContainerPtr& container, const ProcessPtr& process);
  void OpenOwnOutput(const ContainerPtr& container);
  void StartStdio(const ProcessPtr& process);
  // Awaits the process's end in the guest.
  void Watch(const ContainerPtr& container, const ProcessPtr& process);
  // Null: it has ended with the machine.
  void OnWaited(const ContainerPtr& container, const ProcessPtr& process, const containerd::task::v3::WaitResponse* ended);
  void OnExit(const ContainerPtr& container, const ProcessPtr& process, uint32_t status, int64_t at_nanos);
  Result<bool> Attach(const pod::v1::AttachRequest& request);

  sys::EventLoop* loop_;
  GuestClient* client_;
  task::Scratch scratch_;
  FileService files_;
  GuestVolumes volumes_;
  GuestForwards forwards_;
  vmm::Vm* vm_ = nullptr;
  int oom_score_;
  VmEnd end_;
  Adapt adapt_;  // null: the containers are caissond's
  std::string containerd_namespace_, seccomp_cache_;
  uint64_t root_folders_ = 0;  // ever
  std::vector<std::function<void()>> lost_;  // ends of processes, since the channel broke; told with the machine's
  std::map<std::string, ContainerPtr> containers_;
  ContainerPtr debug_;  // the guest itself, as if it were a container; null: not allowed
  struct Disk {
    std::set<std::string> containers;
    bool read_only = true;
    uint64_t device = 0;  // stat(2) st_rdev; 0: an image
  };
  std::map<std::string, Disk> disks_;  // that are attached, by serial
  uint32_t devices_attached_ = 0;      // ever
};

}  // namespace caisson::shim

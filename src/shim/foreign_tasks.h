// SPDX-License-Identifier: Apache-2.0
//
// ForeignTasks: the containers of a pod that another project's shims make (foreign_pod.h), as the companion sees them. It serves Task (v2 and v3) and
// caisson.pod.v1.Pod, as task/ does for a pod of this project's own; what is to be done is asked of the shim, by the Task service; what is kept of it stays here:
// the stdio and so the log and who is attached, the cgroups, and what is known of each end, so that it can be told when there is no shim any more.
//
// A shim's word is not needed to end anything: SIGKILL that it does not pass on in time is given by the cgroups. One thread, the loop's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/task_v3.pb.h"
#include "oci/cgroup.h"
#include "shim/foreign_container.h"
#include "shim/foreign_record.h"
#include "shim/foreign_shims.h"
#include "shim/vm_end.h"
#include "sys/event_loop.h"
#include "task/scratch.h"
#include "task/sync_exec.h"
#include "ttrpc/server.h"

namespace caisson::shim {

class ForeignTasks {
 public:
  // What the pod gives them.
  struct Pod {
    std::string bundle;       // the pod's folder, which exists
    std::string shm;          // where its /dev/shm is mounted
    std::string cgroup_parent;
    bool systemd_cgroup = false;
    wkt::Any options;         // of each CreateTaskRequest
    ForeignRecord* record = nullptr;
  };
  using Ended = std::function<void(uint32_t status)>;

  // Both outlive it.
  ForeignTasks(sys::EventLoop* loop, ForeignShims* shims) : loop_(loop), shims_(shims), scratch_(loop) {}

  // Before the server listens; it outlives the server.
  void Register(ttrpc::Server* server, const std::function<void()>& on_shutdown);
  // Before the first container.
  void SetPod(Pod pod) { pod_ = std::move(pod); }
  // Makes and starts a container of ours, by the pod's shim; its stdio is nobody's. `ended` runs when it ends by itself.
  void RunSandboxContainer(const std::string& id, const std::string& bundle, std::shared_ptr<ForeignClient> shim, std::function<void(Result<>)> done, Ended ended);
  // An event of the shim's: of a container's want of memory, or of an end.
  void OnEvent(const std::string& topic, const wkt::Any& event);
  // No container is made any more. SIGKILL to all, by their cgroups.
  Result<> KillAll(const Deadline& deadline);
  // There is no shim any more; ForeignShims has been told. Every process counts as killed, with this reason if there is one.
  void OnShimEnd(VmEnd end);

 private:
  class Execs;
  using ContainerPtr = std::shared_ptr<ForeignContainer>;
  using ProcessPtr = std::shared_ptr<ForeignProcess>;
  template <class T>
  using Respond = std::function<void(Result<T>)>;

  Result<ContainerPtr> Find(const std::string& id);
  Result<ProcessPtr> FindProcess(const std::string& id, const std::string& exec_id);
  void RegisterTask(ttrpc::Server* server, const char* service, const std::function<void()>& on_shutdown);
  void RegisterPod(ttrpc::Server* server);
  template <class Request, class Response>
  void Forward(ttrpc::Server* server, const char* service, const char* method);

  void Create(const containerd::task::v3::CreateTaskRequest& request, Respond<containerd::task::v3::CreateTaskResponse> respond);
  Result<ContainerPtr> Prepare(const containerd::task::v3::CreateTaskRequest& request);
  Result<> OpenStdio(const wkt::Any& options, const ContainerPtr& container);
  void CreateInShim(const ContainerPtr& container, containerd::task::v3::CreateTaskRequest request, Respond<containerd::task::v3::CreateTaskResponse> respond);
  void Start(const containerd::task::v3::StartRequest& request, Respond<containerd::task::v3::StartResponse> respond);
  void Exec(containerd::task::v3::ExecProcessRequest request, Respond<wkt::Empty> respond);
  void AddExec(const ContainerPtr& container, const ProcessPtr& process, const std::string& spec, Respond<wkt::Empty> respond);
  void StartProcess(const ContainerPtr& container, const ProcessPtr& process, std::function<void(Result<>)> done);
  void Wait(const containerd::task::v3::WaitRequest& request, Respond<containerd::task::v3::WaitResponse> respond);
  void Kill(const containerd::task::v3::KillRequest& request, Respond<wkt::Empty> respond);
  void KillContainer(const ContainerPtr& container, const containerd::task::v3::KillRequest& request, Respond<wkt::Empty> respond);
  void KillExec(const ContainerPtr& container, const ProcessPtr& process);
  void Delete(const containerd::task::v3::DeleteRequest& request, Respond<containerd::task::v3::DeleteResponse> respond);
  void Forget(const ContainerPtr& container, const ProcessPtr& process);
  Result<containerd::task::v3::StateResponse> State(const containerd::task::v3::StateRequest& request);
  Result<wkt::Empty> CloseIo(const containerd::task::v3::CloseIORequest& request);
  void Freeze(const char* method, const std::string& id, bool paused, Respond<wkt::Empty> respond);
  Result<pod::v1::ContainerInfoResponse> Info(const pod::v1::ContainerInfoRequest& request);
  Result<bool> Attach(const pod::v1::AttachRequest& request);
  void Stats(const pod::v1::StatsRequest& request, Respond<pod::v1::StatsResponse> respond);

  // Awaits the process's end.
  void Watch(const ContainerPtr& container, const ProcessPtr& process);
  // It has ended. Those who wait hear of it when all that it wrote has come, or that takes too long.
  void OnExit(const ContainerPtr& container, const ProcessPtr& process, uint32_t status, int64_t at_nanos);
  void Settle(const ContainerPtr& container, const ProcessPtr& process);
  void End(const ContainerPtr& container, const ProcessPtr& process);
  // The stdio's ends are looked at anew when one has come.
  void HearOfEnds(const ContainerPtr& container, const ProcessPtr& process);
  void SeeOom(const ContainerPtr& container);
  // kNotFound: it has none of its own on the host.
  Result<std::unique_ptr<oci::Cgroup>> GroupOf(const ForeignContainer& container) const;
  // What a shim does not say and the container's group does.
  void AddFromGroup(const ForeignContainer& container, bool detail, pod::v1::ContainerStats* stats) const;
  std::string NextFifos() { return pod_.bundle + "/io/" + std::to_string(++fifos_); }

  sys::EventLoop* loop_;
  ForeignShims* shims_;
  task::Scratch scratch_;
  Pod pod_;
  VmEnd end_;
  bool closed_ = false;
  uint64_t fifos_ = 0;
  std::map<std::string, ContainerPtr> containers_;
  std::shared_ptr<task::SyncExecs> sync_execs_;
};

}  // namespace caisson::shim

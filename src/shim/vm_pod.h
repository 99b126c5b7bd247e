// SPDX-License-Identifier: Apache-2.0
//
// VmPod: a pod that is a virtual machine. Its network namespace, where CNI does its work as for any pod, holds a tap that
// is joined to CNI's interface; the guest takes over addresses and routes. The machine starts in Create, while CNI is still
// at work; Start waits for its agent and makes it this pod. Its containers: guest_tasks.h.
//
// With a template the machine is a clone of it, which says its first word in a fraction of the time. One that cannot be had, or that says
// nothing, is made up for by one that boots; Info says so.
//
// A companion may have made and warmed up a machine before there is a pod for it (WarmUp): Create takes it over.
//
// Its size can change while it runs (Resize): processors that stand still are started, memory is given back to the host, the host's limits
// follow.
//
// The machine's end, however it comes, is the pod's: every container counts as killed, and why is told by Task and Pod, kept in
// a file of the bundle (vm_end.h), and `on_end` runs. One thread, the loop's (sandbox_pod.h).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "caisson/guest/v1/guest.pb.h"
#include "caisson/pod/v1/pod.pb.h"
#include "net/tap.h"
#include "oci/cgroup.h"
#include "shim/guest_client.h"
#include "shim/guest_clock.h"
#include "shim/guest_tasks.h"
#include "shim/sandbox_pod.h"
#include "shim/vm_end.h"
#include "shim/vm_service.h"
#include "sys/event_loop.h"
#include "sys/interfaces.h"
#include "ttrpc/greeting.h"
#include "vmm/vm.h"

namespace caisson::shim {

class VmPod : public SandboxPod {
 public:
  // `loop` outlives it.
  VmPod(std::string id, sys::EventLoop* loop, std::function<void()> on_end);
  ~VmPod() override;

  // What it serves beside Sandbox. Before the server listens; it outlives the server.
  void Register(ttrpc::Server* server, const std::function<void()>& on_shutdown);

  void Create(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options, Done done) override;
  void Start(Done done) override;
  Result<> Stop(int64_t deadline_millis) override { return End("the pod has been stopped", deadline_millis); }
  int SandboxPid() const override { return sandbox_pid_; }
  int ToldPid() const override;
  Result<pod::v1::SandboxOptions> ReadOptions(const wkt::Any& any) override { return read_options_ ? read_options_(any) : SandboxPod::ReadOptions(any); }
  using ReadAny = std::function<Result<pod::v1::SandboxOptions>(const wkt::Any& any)>;
  // Of containerd's and CRI-O's pods (guest_tasks.h), before the first call; `read_options` has ReadOptions's place.
  void ForContainerd(std::string containerd_namespace, GuestTasks::Adapt adapt, ReadAny read_options);
  // Where compiled seccomp filters are kept; before the first container.
  void SetSeccompCache(std::string folder) { tasks_.SetSeccompCache(std::move(folder)); }
  // The VMM's; null: it is in ours, or there is none.
  oci::Cgroup* cgroup() { return cgroup_.get(); }
  std::map<std::string, std::string> Info() const override;

 private:
  static constexpr uint32_t kFirstMtu = 1500;  // of the tap, until the pod's interface is known
  using Resized = std::function<void(Result<pod::v1::ResizeResponse>)>;

  // vm_pod_warm.cc
  void RegisterWarmUp(ttrpc::Server* server);
  void WarmUp(const pod::v1::WarmUpRequest& request, Done done);
  Result<> MakeUnowned(const pod::v1::WarmUpRequest& request);
  void OnUnownedAgent();
  void FinishWarmUp(Result<> result);
  void EndUnowned(const std::string& why);
  // The warm machine, if there is one and the pod is to have such a one, becomes the pod's. Otherwise there is none any more.
  bool TakeOver(const std::string& netns_path, const pod::v1::VmOptions& former);
  Result<> MoveMachine(const std::string& netns_path);
  Result<> Prepare(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options);
  // What `options_` ask for, and its folder in `folder`.
  Result<> MakeConfig(const std::string& folder);
  Result<> MakeTap(const std::string& netns_path);
  Result<> MakeCgroup(const std::string& bundle);
  // A clone if there is a template, else one that boots.
  Result<> StartMachine();
  Result<> StartOne(bool clone);
  // While nobody has told the clone which pod it is, another machine may take its place.
  bool MayFallBack() const { return cloned_ && !configuring_ && (state_ == State::kFailed || state_ == State::kCreated); }
  // The clone goes, one that boots takes its place. The guest's own failures are those of one that boots, too.
  Result<> FallBack(const Error& why);
  void DropMachine();
  void OnGreeted(Result<UniqueFd> stream);
  // The agent is there, or will not be.
  void Configure();
  Result<guest::v1::ConfigureRequest> MakeConfiguration();
  Result<> TakeOverNetwork(guest::v1::ConfigureRequest* request);
  void FinishStart(Result<> result);
  std::string WithConsole(const std::string& message) const;
  void SendConfiguration();
  void OnVmmEnd();
  // The agent has closed the channel, or what it says is no ttRPC: its machine follows, or is ended.
  void OnChannelEnd();
  // It has answered nothing for long.
  void OnSilence();
  // The pod has ended by itself.
  void EndWith(const VmEnd& end);
  VmEnd EndOfVm();
  Result<> End(const std::string& why, int64_t deadline_millis);
  // The VMM dies; what is known of its end is kept.
  void KillVm(const std::string& why);
  uint64_t WantedMemory(const pod::v1::ResizeRequest& request) const;
  void RegisterResize(ttrpc::Server* server);
  Result<> CheckResize(const pod::v1::ResizeRequest& request) const;
  void ResizePod(const pod::v1::ResizeRequest& request, Resized resized);
  // The guest has done its part.
  Result<pod::v1::ResizeResponse> FinishResize(const pod::v1::ResizeRequest& request, uint32_t processors);
  Result<> SetMemory(uint64_t bytes);
  void LimitCpu(const pod::v1::CpuLimit& limit);
  // A phase of the pod's start that began at `begin` and ends now.
  void AddPhase(const char* name, int64_t begin);

  sys::EventLoop* loop_;
  std::function<void()> on_end_;
  GuestClient client_;
  GuestTasks tasks_;
  VmService service_;
  GuestClock clock_;
  std::string bundle_;
  vmm::VmConfig config_;  // of a machine that boots
  pod::v1::SandboxOptions options_;
  std::optional<net::Tap> tap_;
  std::unique_ptr<oci::Cgroup> cgroup_;  // the VMM's; null: it is in ours
  std::unique_ptr<vmm::Vm> vm_;
  uint32_t vcpus_ = 0;         // that run
  uint64_t memory_bytes_ = 0;  // that the guest is to have
  std::unique_ptr<ttrpc::Greeting> greeting_;
  std::optional<Result<>> greeted_;
  Done starting_;
  int sandbox_pid_ = 0;
  ReadAny read_options_;  // empty: caissond's pod
  std::string kernel_release_;
  bool cloned_ = false, configuring_ = false;
  std::string template_error_;  // why there is no clone although there was a template
  int attempt_ = 0;             // of starting a machine; answers of a former one are not heard
  enum class Unowned { kNone, kWarming, kWarm };
  Unowned unowned_ = Unowned::kNone;  // whether there is a machine and no pod
  bool was_warm_ = false;             // the machine, when the pod came
  pod::v1::WarmUpRequest warm_up_;
  Done warmed_;
  sys::EventLoop::TimerId idle_timer_ = 0;
  int64_t phase_began_ = 0, machine_began_ = 0;
  std::string phases_;  // "name begin end" lines, CLOCK_REALTIME in nanoseconds
};

}  // namespace caisson::shim

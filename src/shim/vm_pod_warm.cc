// SPDX-License-Identifier: Apache-2.0
// A machine that is made before its pod: cloned, warmed up, stopped; and how it becomes the pod's.
#include <fcntl.h>
#include <sched.h>

#include "base/clock.h"
#include "base/log.h"
#include "shim/vm_machine.h"
#include "shim/vm_pod.h"
#include "shim/warm_up.h"

namespace caisson::shim {
namespace {

// What makes the machine: not where it runs.
std::string ShapeOf(pod::v1::VmOptions options) {
  options.clear_template_dir();
  options.clear_cgroup_path();
  options.clear_cpu_limit();
  return options.SerializeAsString();
}

}  // namespace

void VmPod::RegisterWarmUp(ttrpc::Server* server) {
  server->HandleTyped<pod::v1::WarmUpRequest, pod::v1::WarmUpResponse>("caisson.pod.v1.Pod", "WarmUp", [this](const auto& request, auto respond) {
    WarmUp(request, [respond](Result<> done) {
      if (!done) return respond(std::move(done.error()));
      respond(pod::v1::WarmUpResponse());
    });
  });
}

void VmPod::WarmUp(const pod::v1::WarmUpRequest& request, Done done) {
  auto fresh = CheckFresh();
  if (fresh && unowned_ != Unowned::kNone) fresh = MakeError(Code::kFailedPrecondition, "this companion has a machine already");
  if (!fresh) return done(std::move(fresh));
  warm_up_ = request;
  warmed_ = std::move(done);
  unowned_ = Unowned::kWarming;
  auto made = MakeUnowned(request);
  if (!made) FinishWarmUp(std::move(made));
}

// In a network namespace that leads nowhere: the tap moves when the pod is there.
Result<> VmPod::MakeUnowned(const pod::v1::WarmUpRequest& request) {
  TRY(CheckVmOptions(request.vm()));
  if (!request.folder().starts_with('/')) return MakeError(Code::kInvalidArgument, "the folder '{}' is not absolute", request.folder());
  *options_.mutable_vm() = request.vm();
  if (unshare(CLONE_NEWNET) != 0) return ErrnoError("make a network namespace");
  tap_ = TRY(net::OpenTap(0, kFirstMtu));
  TRY(MakeConfig(request.folder()));
  return StartOne(true);
}

void VmPod::OnUnownedAgent() {
  if (!*greeted_) return FinishWarmUp(std::move(*greeted_));
  RunWarmUp(warm_up_, &client_, vm_.get(), [this](Result<> done) {
    if (unowned_ != Unowned::kWarming) return;
    FinishWarmUp(done ? vm_->Pause(kVmmMillis) : std::move(done));
  });
}

void VmPod::FinishWarmUp(Result<> result) {
  Done done = std::exchange(warmed_, nullptr);
  if (!done) return;
  if (!result) return done(std::move(result));
  unowned_ = Unowned::kWarm;
  if (warm_up_.idle_millis() > 0) {
    idle_timer_ = loop_->After(warm_up_.idle_millis(), [this] {
      idle_timer_ = 0;
      EndUnowned("nobody has made a pod of it");
    });
  }
  done({});
}

void VmPod::EndUnowned(const std::string& why) {
  log::Info("warm machine {} ends: {}", id(), why);
  FinishWarmUp(MakeError(Code::kUnavailable, "{}", why));
  on_end_();
}

bool VmPod::TakeOver(const std::string& netns_path, const pod::v1::VmOptions& former) {
  if (unowned_ == Unowned::kNone) return false;
  const bool warm = std::exchange(unowned_, Unowned::kNone) == Unowned::kWarm;
  loop_->CancelTimer(std::exchange(idle_timer_, 0));
  phases_.clear();
  const int64_t begin = NowNanos(), began = MonotonicNanos();
  const bool fits = warm && !netns_path.empty() && ShapeOf(former) == ShapeOf(options_.vm());
  auto moved = fits ? MoveMachine(netns_path) : Result<>(MakeError(Code::kFailedPrecondition, "it is of another kind"));
  if (moved) {
    was_warm_ = true;
    AddPhase("vm_take", begin);
    service_.SetStart(MonotonicNanos() - began, true);
    return true;
  }
  log::Warn("pod {}: its warm machine is not used: {}", id(), moved.error().message);
  DropMachine();
  tap_.reset();
  return false;
}

// It runs from here on, and is asked what it is by Start.
Result<> VmPod::MoveMachine(const std::string& netns_path) {
  UniqueFd netns(open(netns_path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!netns) return ErrnoError("open the pod's network namespace '{}'", netns_path);
  TRY(net::MoveTap(&*tap_, netns.get(), kFirstMtu));
  if (cgroup_) TRY(cgroup_->Attach(vm_->pid()));
  tasks_.files()->SetCgroups(config_.cgroup_procs);
  return vm_->Resume(kVmmMillis);
}

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
// The size of a VM pod that runs: what its VMM, its guest and the host's cgroup do for it.
#include "base/log.h"
#include "shim/vm_pod.h"

namespace caisson::shim {
namespace {
constexpr int64_t kBalloonMillis = 5000;
constexpr uint64_t kMiB = 1 << 20;
}  // namespace

void VmPod::RegisterResize(ttrpc::Server* server) {
  server->HandleTyped<pod::v1::ResizeRequest, pod::v1::ResizeResponse>(
      "caisson.pod.v1.Pod", "Resize", [this](const auto& request, auto respond) { ResizePod(request, std::move(respond)); });
}

uint64_t VmPod::WantedMemory(const pod::v1::ResizeRequest& request) const {
  return request.memory_bytes() > 0 ? request.memory_bytes() : vm_->PluggedMemory();
}

// Before anything is done.
Result<> VmPod::CheckResize(const pod::v1::ResizeRequest& request) const {
  if (state_ != State::kReady) return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not ready", id());
  const uint32_t most = std::max(config_.vcpus, config_.max_vcpus);
  if (request.vcpus() > most) {
    return MakeError(Code::kFailedPrecondition, "pod sandbox '{}': its VM has {} processors at most, not {}; a new pod can have more", id(), most, request.vcpus());
  }
  if (const uint64_t memory = std::max(config_.memory_bytes, config_.max_memory_bytes); request.memory_bytes() > memory) {
    return MakeError(Code::kFailedPrecondition, "pod sandbox '{}': its VM can have {} MiB of memory while it runs, not {}; a new pod can", id(), memory / kMiB,
                     request.memory_bytes() / kMiB);
  }
  return {};
}

// More memory is there before the pod may use it, and less when it may not any more.
void VmPod::ResizePod(const pod::v1::ResizeRequest& request, Resized resized) {
  const uint64_t former = memory_bytes_;
  auto checked = CheckResize(request);
  if (checked && WantedMemory(request) > memory_bytes_) checked = SetMemory(WantedMemory(request));
  if (!checked) return resized(std::move(checked.error()));
  guest::v1::ResizeRequest to_guest;
  to_guest.set_processors(request.vcpus());
  to_guest.set_memory_limit_bytes(request.memory_limit_bytes());
  if (vm_->PluggedMemory() > config_.memory_bytes) to_guest.set_plugged_bytes(vm_->PluggedMemory());
  client_.Call<guest::v1::ResizeResponse>(guest_service::kGuest, "Resize", to_guest, GuestClient::kTimeoutMillis,
                                          [this, request, former, resized = std::move(resized)](Result<guest::v1::ResizeResponse> done) {
                                            if (!done && vm_ && memory_bytes_ > former) (void)SetMemory(former);
                                            if (!done) return resized(std::move(done.error()));
                                            resized(FinishResize(request, done->processors()));
                                          });
}

Result<pod::v1::ResizeResponse> VmPod::FinishResize(const pod::v1::ResizeRequest& request, uint32_t processors) {
  if (!vm_ || state_ != State::kReady) return MakeError(Code::kUnavailable, "pod sandbox '{}' has ended", id());
  if (request.vcpus() != 0 && processors != request.vcpus()) {
    return MakeError(Code::kInternal, "pod sandbox '{}': its guest runs {} processors instead of {}", id(), processors, request.vcpus());
  }
  if (request.vcpus() != 0) vcpus_ = request.vcpus();
  LimitCpu(request.cpu_limit());
  if (WantedMemory(request) < memory_bytes_) {
    auto less = SetMemory(WantedMemory(request));
    // The pod keeps to its limit in the guest; it is only the host that gets nothing back.
    if (!less && less.error().code != Code::kUnimplemented) return std::move(less.error());
  }
  pod::v1::ResizeResponse response;
  response.set_vcpus(vcpus_);
  response.set_memory_bytes(memory_bytes_);
  return response;
}

Result<> VmPod::SetMemory(uint64_t bytes) {
  TRY(vm_->SetMemory(bytes, kBalloonMillis));
  memory_bytes_ = bytes;
  return {};
}

// Not of a VMM in our own cgroup, which is not the pod's.
void VmPod::LimitCpu(const pod::v1::CpuLimit& limit) {
  if (!cgroup_) return;
  oci::Resources resources;
  resources.cpu.emplace();
  resources.cpu->quota = limit.quota() > 0 ? limit.quota() : -1;
  if (limit.period() > 0) resources.cpu->period = limit.period();
  auto applied = cgroup_->Apply(resources);
  // cgroup v1: a group above, the kubelet's, may give less (EINVAL), which then counts.
  if (!applied) log::Warn("pod {}: the CPU limit of its VMM: {}", id(), applied.error().message);
}

}  // namespace caisson::shim

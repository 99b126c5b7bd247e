// SPDX-License-Identifier: Apache-2.0
#include "cri/container_spec.h"
#include "cri/rpc/rpc.h"
#include "cri/vm_pod.h"

namespace caisson::cri {
namespace {

// The pod as it is to be: its VM becomes what a new one would be. `changed` gets what is to be remembered.
Result<> ResizeVm(Context& context, const Pod& pod, PodRecord* changed) {
  std::shared_ptr<ShimClient> shim = pod.shim();
  if (!shim) return MakeError(Code::kUnavailable, "pod '{}' has no companion any more", pod.id());
  PodRecord wanted = *changed;
  auto& linux = *wanted.mutable_config()->mutable_linux();
  if (changed->has_overhead()) *linux.mutable_overhead() = changed->overhead();
  if (changed->has_resources()) *linux.mutable_resources() = changed->resources();
  auto request = TRY(VmResizeOf(context.config, wanted, ReadHostSize()));
  auto done = TRY(shim->Call<pod::v1::ResizeResponse>(service::kPod, "Resize", request));
  changed->mutable_vm()->set_vcpus(done.vcpus());
  changed->mutable_vm()->set_memory_bytes(done.memory_bytes());
  return {};
}

}  // namespace

// The kubelet calls it when it changes the pod's cgroup, which is its own: it is told, not asked. A native pod has nothing else to
// fit to it; what was told is kept and shown. A VM is made larger or smaller; where it cannot be, nothing is kept.
Result<v1::UpdatePodSandboxResourcesResponse> UpdatePodSandboxResources(
    Context& context, const v1::UpdatePodSandboxResourcesRequest& request) {
  PodPtr pod = TRY(context.pods.Find(request.pod_sandbox_id()));
  std::lock_guard lock(pod->operation);
  PodRecord changed = *pod->Get();
  if (changed.state() != v1::SANDBOX_READY) {
    return MakeError(Code::kFailedPrecondition, "pod '{}' is not ready", pod->id());
  }
  if (changed.has_vm()) {
    // What a request leaves at its zero value stays as it is.
    if (!changed.has_resources()) *changed.mutable_resources() = changed.config().linux().resources();
    if (!changed.has_overhead()) *changed.mutable_overhead() = changed.config().linux().overhead();
    MergeResources(request.resources(), changed.mutable_resources());
    MergeResources(request.overhead(), changed.mutable_overhead());
    TRY(ResizeVm(context, *pod, &changed));
  } else {
    if (request.has_overhead()) *changed.mutable_overhead() = request.overhead();
    if (request.has_resources()) *changed.mutable_resources() = request.resources();
  }
  TRY(context.pods.Update(pod, [&](PodRecord& record) {
    if (changed.has_vm()) *record.mutable_vm() = changed.vm();
    if (changed.has_overhead()) *record.mutable_overhead() = changed.overhead();
    if (changed.has_resources()) *record.mutable_resources() = changed.resources();
  }));
  context.sampler.Outdate();
  return v1::UpdatePodSandboxResourcesResponse();
}

}  // namespace caisson::cri

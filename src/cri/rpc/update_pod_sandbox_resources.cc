// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"

namespace caisson::cri {

// The kubelet calls it after it has changed the pod's cgroup, which is its own: it is told, not asked. A native pod has
// nothing else to fit to it; what was told is kept and shown.
Result<v1::UpdatePodSandboxResourcesResponse> UpdatePodSandboxResources(
    Context& context, const v1::UpdatePodSandboxResourcesRequest& request) {
  PodPtr pod = TRY(context.pods.Find(request.pod_sandbox_id()));
  std::lock_guard lock(pod->operation);
  if (pod->Get()->state() != v1::SANDBOX_READY) {
    return MakeError(Code::kFailedPrecondition, "pod '{}' is not ready", pod->id());
  }
  TRY(context.pods.Update(pod, [&](PodRecord& changed) {
    if (request.has_overhead()) *changed.mutable_overhead() = request.overhead();
    if (request.has_resources()) *changed.mutable_resources() = request.resources();
  }));
  return v1::UpdatePodSandboxResourcesResponse();
}

}  // namespace caisson::cri

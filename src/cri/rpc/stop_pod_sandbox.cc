// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_teardown.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::StopPodSandboxResponse> StopPodSandbox(Context& context, const v1::StopPodSandboxRequest& request) {
  auto pod = context.pods.Find(request.pod_sandbox_id());
  if (!pod) {
    // CRI: idempotent, and a sandbox that has been removed is stopped.
    if (pod.error().code == Code::kNotFound) return v1::StopPodSandboxResponse();
    return std::move(pod.error());
  }
  std::lock_guard lock((*pod)->operation);
  TRY(StopPod(context, *pod));
  return v1::StopPodSandboxResponse();
}

}  // namespace caisson::cri

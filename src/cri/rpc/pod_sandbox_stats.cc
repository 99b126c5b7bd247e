// SPDX-License-Identifier: Apache-2.0
#include "cri/figures.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::PodSandboxStatsResponse> PodSandboxStats(Context& context, const v1::PodSandboxStatsRequest& request) {
  PodPtr pod = TRY(context.pods.Find(request.pod_sandbox_id()));
  v1::PodSandboxStatsResponse response;
  *response.mutable_stats() = std::move(PodFiguresOf(context, {pod}, TakeSample(context, {pod}, Ask::kPods)).front());
  return response;
}

}  // namespace caisson::cri

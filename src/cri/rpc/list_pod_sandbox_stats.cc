// SPDX-License-Identifier: Apache-2.0
#include "cri/figures.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::ListPodSandboxStatsResponse> ListPodSandboxStats(Context& context,
                                                            const v1::ListPodSandboxStatsRequest& request) {
  v1::PodSandboxFilter filter;
  filter.set_id(request.filter().id());
  *filter.mutable_label_selector() = request.filter().label_selector();
  filter.mutable_state()->set_state(v1::SANDBOX_READY);
  std::vector<PodPtr> pods;
  for (const PodPtr& pod : context.pods.List()) {
    if (Matches(*pod->Get(), filter)) pods.push_back(pod);
  }
  v1::ListPodSandboxStatsResponse response;
  for (auto& stats : ReadPodFigures(context, pods)) *response.add_stats() = std::move(stats);
  return response;
}

}  // namespace caisson::cri

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
  bool every = request.filter().id().empty() && request.filter().label_selector().empty();
  auto sample = every ? context.sampler.Get(Ask::kPods)
                      : std::make_shared<const StatsSample>(TakeSample(context, pods, Ask::kPods));
  v1::ListPodSandboxStatsResponse response;
  for (auto& stats : PodFiguresOf(context, pods, *sample)) *response.add_stats() = std::move(stats);
  return response;
}

}  // namespace caisson::cri

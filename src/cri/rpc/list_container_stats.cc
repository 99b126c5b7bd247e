// SPDX-License-Identifier: Apache-2.0
#include "cri/figures.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::ListContainerStatsResponse> ListContainerStats(Context& context,
                                                          const v1::ListContainerStatsRequest& request) {
  v1::ContainerFilter filter;
  filter.set_id(request.filter().id());
  filter.set_pod_sandbox_id(request.filter().pod_sandbox_id());
  *filter.mutable_label_selector() = request.filter().label_selector();
  filter.mutable_state()->set_state(v1::CONTAINER_RUNNING);  // others use nothing that changes
  std::vector<ContainerPtr> containers;
  for (const ContainerPtr& container : context.containers.List()) {
    if (Matches(*container->Get(), filter)) containers.push_back(container);
  }
  bool every = filter.id().empty() && filter.pod_sandbox_id().empty() && filter.label_selector().empty();
  auto all = every ? ReadFigures(context, containers, context.sampler.Get(Ask::kUsage)->figures)
                   : ReadFigures(context, containers);
  v1::ListContainerStatsResponse response;
  for (auto& figures : all) *response.add_stats() = std::move(figures.message);
  return response;
}

}  // namespace caisson::cri

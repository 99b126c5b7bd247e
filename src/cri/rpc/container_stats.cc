// SPDX-License-Identifier: Apache-2.0
#include "cri/figures.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::ContainerStatsResponse> ContainerStats(Context& context, const v1::ContainerStatsRequest& request) {
  ContainerPtr container = TRY(context.containers.Find(request.container_id()));
  auto figures = ReadFigures(context, {container});
  if (!figures.front().answered && container->Get()->state() == v1::CONTAINER_RUNNING) {
    return MakeError(Code::kUnavailable, "the companion of container '{}' does not tell its figures", container->id());
  }
  v1::ContainerStatsResponse response;
  *response.mutable_stats() = std::move(figures.front().message);
  return response;
}

}  // namespace caisson::cri

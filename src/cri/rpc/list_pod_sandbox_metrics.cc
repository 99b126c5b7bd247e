// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_metrics.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::ListPodSandboxMetricsResponse> ListPodSandboxMetrics(Context& context, const v1::ListPodSandboxMetricsRequest&) {
  v1::ListPodSandboxMetricsResponse response;
  for (auto& metrics : ReadPodMetrics(context)) *response.add_pod_metrics() = std::move(metrics);
  return response;
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_metrics.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::ListMetricDescriptorsResponse> ListMetricDescriptors(Context&, const v1::ListMetricDescriptorsRequest&) {
  v1::ListMetricDescriptorsResponse response;
  for (auto& descriptor : MetricDescriptors()) *response.add_descriptors() = std::move(descriptor);
  return response;
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"
#include "cri/verbose.h"

namespace caisson::cri {

v1::PodSandboxStatus PodStatusOf(const PodRecord& record) {
  v1::PodSandboxStatus status;
  status.set_id(record.id());
  *status.mutable_metadata() = record.config().metadata();
  status.set_state(record.state());
  status.set_created_at(record.created_at_nanos());
  *status.mutable_labels() = record.config().labels();
  *status.mutable_annotations() = record.config().annotations();
  status.set_runtime_handler(record.handler());
  v1::PodSandboxNetworkStatus& network = *status.mutable_network();
  // The address belongs to the pod only as long as it is ready; the kubelet takes the host's for a host-network pod.
  if (record.state() == v1::SANDBOX_READY) {
    for (int i = 0; i < record.network().ips_size(); ++i) {
      if (i == 0) {
        network.set_ip(record.network().ips(0));
      } else {
        network.add_additional_ips()->set_ip(record.network().ips(i));
      }
    }
  }
  *status.mutable_linux()->mutable_namespaces()->mutable_options() =
      record.config().linux().security_context().namespace_options();
  return status;
}

Result<v1::PodSandboxStatusResponse> PodSandboxStatus(Context& context, const v1::PodSandboxStatusRequest& request) {
  PodPtr pod = TRY(context.pods.Find(request.pod_sandbox_id()));
  auto record = pod->Get();
  v1::PodSandboxStatusResponse response;
  *response.mutable_status() = PodStatusOf(*record);
  if (request.verbose()) {
    (*response.mutable_info())["info"] = PodInfoJson(*record);
    (*response.mutable_info())["timeline"] = TimelineJson(record->timeline());
  }
  return response;
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "caisson/pod/v1/pod.pb.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::ReopenContainerLogResponse> ReopenContainerLog(Context& context,
                                                          const v1::ReopenContainerLogRequest& request) {
  ContainerPtr container = TRY(context.containers.Find(request.container_id()));
  auto record = container->Get();
  PodPtr pod = TRY(context.pods.Find(record->pod_id()));
  std::shared_ptr<ShimClient> shim = pod->shim();
  if (record->state() != v1::CONTAINER_RUNNING || !shim) {
    return MakeError(Code::kFailedPrecondition, "container '{}' is not running", container->id());
  }
  pod::v1::ReopenLogRequest reopen;
  reopen.set_container_id(container->id());
  TRY(shim->Call<pod::v1::ReopenLogResponse>(service::kPod, "ReopenLog", reopen));
  return v1::ReopenContainerLogResponse();
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::ListContainersResponse> ListContainers(Context& context, const v1::ListContainersRequest& request) {
  v1::ListContainersResponse response;
  for (const ContainerPtr& container : context.containers.List()) {
    auto record = container->Get();
    if (!Matches(*record, request.filter())) continue;
    v1::Container& item = *response.add_containers();
    item.set_id(record->id());
    item.set_pod_sandbox_id(record->pod_id());
    *item.mutable_metadata() = record->config().metadata();
    *item.mutable_image() = record->config().image();
    item.set_image_ref(record->image_ref());
    item.set_image_id(record->image_id());
    item.set_state(record->state());
    item.set_created_at(record->created_at_nanos());
    *item.mutable_labels() = record->config().labels();
    *item.mutable_annotations() = record->config().annotations();
  }
  return response;
}

}  // namespace caisson::cri

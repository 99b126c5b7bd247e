// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::ListPodSandboxResponse> ListPodSandbox(Context& context, const v1::ListPodSandboxRequest& request) {
  v1::ListPodSandboxResponse response;
  for (const PodPtr& pod : context.pods.List()) {
    auto record = pod->Get();
    if (!Matches(*record, request.filter())) continue;
    v1::PodSandbox& item = *response.add_items();
    item.set_id(record->id());
    *item.mutable_metadata() = record->config().metadata();
    item.set_state(record->state());
    item.set_created_at(record->created_at_nanos());
    *item.mutable_labels() = record->config().labels();
    *item.mutable_annotations() = record->config().annotations();
    item.set_runtime_handler(record->handler());
  }
  return response;
}

}  // namespace caisson::cri

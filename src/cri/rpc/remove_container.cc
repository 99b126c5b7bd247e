// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_teardown.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::RemoveContainerResponse> RemoveContainer(Context& context, const v1::RemoveContainerRequest& request) {
  auto container = context.containers.Find(request.container_id());
  if (!container) {
    if (container.error().code == Code::kNotFound) return v1::RemoveContainerResponse();
    return std::move(container.error());
  }
  TRY(DiscardContainer(context, *container));
  return v1::RemoveContainerResponse();
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"
#include "cri/rpc/stream_target.h"
#include "stream/server.h"

namespace caisson::cri {

Result<ContainerPtr> RunningContainer(Context& context, const std::string& id) {
  ContainerPtr container = TRY(context.containers.Find(id));
  if (container->Get()->state() != v1::CONTAINER_RUNNING) {
    return MakeError(Code::kFailedPrecondition, "container '{}' is not running", container->id());
  }
  return container;
}

Result<v1::AttachResponse> Attach(Context& context, const v1::AttachRequest& request) {
  ContainerPtr container = TRY(RunningContainer(context, request.container_id()));
  stream::ExecTarget target = TRY(StreamTarget("attach", *container, request));
  v1::AttachResponse response;
  response.set_url(TRY(context.streams->AttachUrl(std::move(target))));
  return response;
}

}  // namespace caisson::cri

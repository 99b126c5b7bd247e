// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"
#include "cri/rpc/rpc.h"
#include "stream/server.h"

namespace caisson::cri {

Result<v1::PortForwardResponse> PortForward(Context& context, const v1::PortForwardRequest& request) {
  PodPtr pod = TRY(context.pods.Find(request.pod_sandbox_id()));
  auto record = pod->Get();
  if (record->state() != v1::SANDBOX_READY) {
    return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not ready", pod->id());
  }
  stream::PortForwardTarget target;
  target.pod_id = pod->id();
  for (int port : request.port()) {
    if (port < 1 || port > 65'535) return MakeError(Code::kInvalidArgument, "{} is no port", port);
    target.ports.push_back(static_cast<uint16_t>(port));
  }
  v1::PortForwardResponse response;
  response.set_url(TRY(context.streams->PortForwardUrl(std::move(target))));
  const auto& name = record->config().metadata();
  log::Info("port-forward to pod {}/{} ({}) is granted", name.namespace_(), name.name(), pod->id());
  return response;
}

}  // namespace caisson::cri

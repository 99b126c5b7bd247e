// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"
#include "cri/rpc/stream_target.h"
#include "stream/server.h"

namespace caisson::cri {

Result<v1::ExecResponse> Exec(Context& context, const v1::ExecRequest& request) {
  ContainerPtr container = TRY(RunningContainer(context, request.container_id()));
  if (request.cmd().empty() || request.cmd(0).empty()) {
    return MakeError(Code::kInvalidArgument, "the command to execute is empty");
  }
  stream::ExecTarget target = TRY(StreamTarget("exec", *container, request));
  target.args.assign(request.cmd().begin(), request.cmd().end());
  v1::ExecResponse response;
  response.set_url(TRY(context.streams->ExecUrl(std::move(target))));
  return response;
}

}  // namespace caisson::cri

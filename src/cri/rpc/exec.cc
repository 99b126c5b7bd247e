// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"
#include "stream/server.h"

namespace caisson::cri {

Result<v1::ExecResponse> Exec(Context& context, const v1::ExecRequest& request) {
  ContainerPtr container = TRY(RunningContainer(context, request.container_id()));
  if (request.cmd().empty() || request.cmd(0).empty()) {
    return MakeError(Code::kInvalidArgument, "the command to execute is empty");
  }
  TRY(CheckStreams("exec", request.tty(), request.stdin(), request.stdout(), request.stderr()));
  stream::ExecTarget target;
  target.container_id = container->id();
  target.args.assign(request.cmd().begin(), request.cmd().end());
  target.tty = request.tty();
  target.in = request.stdin();
  target.out = request.stdout();
  target.err = request.stderr();
  v1::ExecResponse response;
  response.set_url(TRY(context.streams->ExecUrl(std::move(target))));
  return response;
}

}  // namespace caisson::cri

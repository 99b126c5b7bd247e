// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"
#include "stream/server.h"

namespace caisson::cri {

Result<ContainerPtr> RunningContainer(Context& context, const std::string& id) {
  ContainerPtr container = TRY(context.containers.Find(id));
  if (container->Get()->state() != v1::CONTAINER_RUNNING) {
    return MakeError(Code::kFailedPrecondition, "container '{}' is not running", container->id());
  }
  return container;
}

// CRI, ExecRequest and AttachRequest: one of the three at least, and no stderr with a tty, which has one output.
Result<> CheckStreams(std::string_view verb, bool tty, bool in, bool out, bool err) {
  if (tty && err) return MakeError(Code::kInvalidArgument, "{}: a tty has no stderr of its own", verb);
  if (!in && !out && !err) return MakeError(Code::kInvalidArgument, "{}: none of stdin, stdout and stderr is asked for", verb);
  return {};
}

Result<v1::AttachResponse> Attach(Context& context, const v1::AttachRequest& request) {
  ContainerPtr container = TRY(RunningContainer(context, request.container_id()));
  TRY(CheckStreams("attach", request.tty(), request.stdin(), request.stdout(), request.stderr()));
  stream::ExecTarget target;
  target.container_id = container->id();
  target.tty = request.tty();
  target.in = request.stdin();
  target.out = request.stdout();
  target.err = request.stderr();
  v1::AttachResponse response;
  response.set_url(TRY(context.streams->AttachUrl(std::move(target))));
  return response;
}

}  // namespace caisson::cri

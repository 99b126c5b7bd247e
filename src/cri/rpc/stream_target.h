// SPDX-License-Identifier: Apache-2.0
//
// What Exec and Attach ask of the streaming server alike.
#pragma once

#include <string_view>

#include "cri/container_index.h"
#include "stream/server.h"

namespace caisson::cri {

// CRI, ExecRequest and AttachRequest: one of the three streams at least, and no stderr with a tty, which has one output;
// else kInvalidArgument. The command is the caller's to set.
template <class Request>
Result<stream::ExecTarget> StreamTarget(std::string_view verb, const Container& container, const Request& request) {
  if (request.tty() && request.stderr()) return MakeError(Code::kInvalidArgument, "{}: a tty has no stderr of its own", verb);
  if (!request.stdin() && !request.stdout() && !request.stderr()) {
    return MakeError(Code::kInvalidArgument, "{}: none of stdin, stdout and stderr is asked for", verb);
  }
  stream::ExecTarget target;
  target.container_id = container.id();
  target.tty = request.tty();
  target.in = request.stdin();
  target.out = request.stdout();
  target.err = request.stderr();
  return target;
}

}  // namespace caisson::cri

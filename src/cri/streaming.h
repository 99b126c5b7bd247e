// SPDX-License-Identifier: Apache-2.0
//
// Streaming: Exec, Attach and PortForward: the streaming server (stream/server.h) with the daemon's backend. The verbs
// ask server() for URLs; what comes by them is served here, on the server's thread and one event loop thread.
//
// A client that goes away ends what was run for it: an exec'd process and all that came of it is killed. What a former
// daemon that died has left running for its clients is ended at the start.
#pragma once

#include <memory>

#include "cri/context.h"
#include "stream/server.h"

namespace caisson::cri {

class Streaming {
 public:
  // After recovery. `context` outlives it. Errors: the address is taken, the certificate is unreadable.
  static Result<std::unique_ptr<Streaming>> Start(Context& context);
  // Ends all sessions, their processes killed, within a few seconds. Before the companions' connections are closed.
  virtual ~Streaming() = default;
  virtual stream::Server& server() = 0;
};

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// The command's end of a streaming URL: WebSocket with Kubernetes' subprotocols. Each function runs an event loop until the
// session is over. Nothing here knows gRPC. One thread, and one that reads stdin, which ends with the command.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"

namespace caisson::cli {

struct StreamOptions {
  bool in = false;   // our stdin is sent, and its end
  bool tty = false;  // our terminal, if stdin is one, is raw meanwhile and its size is the remote one's
};

// Our stdout and stderr show what comes. Returns the exit code of the remote process. Errors: what the server says.
Result<int> RunStream(const std::string& url, const StreamOptions& options);

// Listens on 127.0.0.1:`local_port` (0: any) until SIGINT or SIGTERM; each connection gets a URL of its own from `new_url`
// and is carried over it. `on_listening` is told the port.
Result<> RunForward(uint16_t local_port, const std::function<Result<std::string>()>& new_url,
                    const std::function<void(uint16_t)>& on_listening);

}  // namespace caisson::cli

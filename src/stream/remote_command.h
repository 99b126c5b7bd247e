// SPDX-License-Identifier: Apache-2.0
//
// The protocols of exec and attach (Kubernetes' remotecommand) between a link and a ProcessSession.
//
// SPDY: the client opens a stream per direction, named by its header "streamtype": error, stdin, stdout, stderr, resize
// (with a tty, since v3). The process is started when all that the request names are there. The error stream carries
// how it ended: JSON since v4, before that a message or nothing. WebSocket: each message begins with its channel (0
// stdin, 1 stdout, 2 stderr, 3 error, 4 resize): a byte, or in the base64 variants a digit with the data in base64. In
// v5 the message {255, channel} ends a channel.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "stream/link.h"
#include "stream/loop.h"
#include "stream/tokens.h"

namespace caisson::stream {

// In the server's order of preference; the client's order decides.
std::vector<std::string_view> SpdyCommandProtocols();
std::vector<std::string_view> WebSocketCommandProtocols();  // "" stands for a client that names none

// `protocol`: one of the above.
std::unique_ptr<LinkUser> MakeSpdyCommand(const Loop& loop, Link& link, std::string_view protocol, ExecTarget target,
                                          bool attach);
std::unique_ptr<LinkUser> MakeWebSocketCommand(const Loop& loop, Link& link, std::string_view protocol,
                                               ExecTarget target, bool attach);

}  // namespace caisson::stream

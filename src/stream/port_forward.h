// SPDX-License-Identifier: Apache-2.0
//
// The protocols of port-forward between a link and connections into a pod.
//
// SPDY: for each connection the client opens two streams with the headers "streamtype" (error, data), "port" and
// "requestid"; without the latter (old clients) the data stream is the one after its error stream. What fails is told
// on the error stream; both streams end when the pod's side does. WebSocket: the ports are the request's; port i has
// the channels 2i for data and 2i+1 for errors, each of which begins with the port, two bytes, little endian. A port is
// one connection.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "stream/link.h"
#include "stream/loop.h"

namespace caisson::stream {

std::vector<std::string_view> SpdyForwardProtocols();
std::vector<std::string_view> WebSocketForwardProtocols();
// The subprotocol whose WebSocket messages carry SPDY.
inline constexpr std::string_view kTunnelProtocol = "SPDY/3.1+portforward.k8s.io";

std::unique_ptr<LinkUser> MakeSpdyForward(const Loop& loop, Link& link, PortForwardTarget target);
std::unique_ptr<LinkUser> MakeWebSocketForward(const Loop& loop, Link& link, std::string_view protocol,
                                               PortForwardTarget target);

}  // namespace caisson::stream

// SPDX-License-Identifier: Apache-2.0
#include "stream/http_request.h"

#include <algorithm>
#include <cctype>

#include "base/strings.h"
#include "stream/port_forward.h"
#include "stream/remote_command.h"

namespace caisson::stream {
namespace {

constexpr size_t kMaxWebSocketPorts = 127;  // a port has two channels, a channel is a byte, and 255 has a meaning

// Whether a comma separated header names `word`, in any case.
bool Names(std::string_view header, std::string_view word) {
  for (std::string_view piece : Split(header, ',')) {
    piece = Trim(piece);
    auto same = [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); };
    if (std::equal(piece.begin(), piece.end(), word.begin(), word.end(), same)) return true;
  }
  return false;
}

// The client's first choice among what is served.
std::optional<std::string> Negotiate(std::string_view offered, const std::vector<std::string_view>& served) {
  for (std::string_view piece : Split(offered, ',')) {
    piece = Trim(piece);
    if (!piece.empty() && std::find(served.begin(), served.end(), piece) != served.end()) return std::string(piece);
  }
  return std::nullopt;
}

bool DecideSpdy(const RequestHead& head, bool forward, Accepted* accepted, Refusal* refusal) {
  auto served = forward ? SpdyForwardProtocols() : SpdyCommandProtocols();
  if (Trim(head.spdy_protocols).empty()) {
    *refusal = {400, "unable to upgrade: the request has no X-Stream-Protocol-Version", {}};
    return false;
  }
  auto protocol = Negotiate(head.spdy_protocols, served);
  if (!protocol) {
    *refusal = {403, "unable to upgrade: none of the client's stream protocols is served", served};
    return false;
  }
  accepted->protocol = *protocol;
  return true;
}

bool DecideWebSocket(const RequestHead& head, bool forward, Accepted* accepted, Refusal* refusal) {
  auto served = forward ? WebSocketForwardProtocols() : WebSocketCommandProtocols();
  accepted->websocket = true;
  if (!Trim(head.websocket_protocols).empty()) {
    auto protocol = Negotiate(head.websocket_protocols, served);
    if (!protocol) {
      *refusal = {403, "none of the client's WebSocket subprotocols is served", {}};
      return false;
    }
    accepted->protocol = *protocol;
  }
  if (!forward || accepted->protocol == kTunnelProtocol) return true;
  const auto& ports = std::get<PortForwardTarget>(accepted->grant).ports;
  if (!ports.empty() && ports.size() <= kMaxWebSocketPorts) return true;
  *refusal = {400, "port-forward over WebSocket needs 1 to 127 ports in the request", {}};
  return false;
}

}  // namespace

bool Decide(const RequestHead& head, Tokens& tokens, Accepted* accepted, Refusal* refusal) {
  std::string_view path = std::string_view(head.target).substr(0, head.target.find('?'));
  size_t slash = path.find('/', 1);
  std::string_view verb = path.substr(std::min<size_t>(1, path.size()), slash == path.npos ? path.npos : slash - 1);
  if (slash == path.npos || (verb != "exec" && verb != "attach" && verb != "portforward")) {
    *refusal = {404, "no such page", {}};
    return false;
  }
  if (head.method != "GET" && head.method != "POST") {
    *refusal = {405, "only GET and POST are served", {}};
    return false;
  }
  auto grant = tokens.Take(verb, std::string(path.substr(slash + 1)));
  if (!grant) {
    *refusal = {404, "the streaming URL is unknown, used or expired", {}};
    return false;
  }
  accepted->grant = std::move(*grant);
  bool upgrade = Names(head.connection, "upgrade"), forward = verb == "portforward";
  if (upgrade && Names(head.upgrade, "websocket")) return DecideWebSocket(head, forward, accepted, refusal);
  if (upgrade && Names(head.upgrade, "SPDY/3.1")) return DecideSpdy(head, forward, accepted, refusal);
  *refusal = {400, "unable to upgrade: the request asks for neither SPDY/3.1 nor websocket", {}};
  return false;
}

}  // namespace caisson::stream

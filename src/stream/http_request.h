// SPDX-License-Identifier: Apache-2.0
//
// What a client's HTTP request asks for, checked against its token. Pure but for using the token up.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stream/tokens.h"

namespace caisson::stream {

// The parts of a request that matter, as text.
struct RequestHead {
  std::string method, target;
  std::string connection, upgrade;
  std::string spdy_protocols;       // X-Stream-Protocol-Version, several joined by commas
  std::string websocket_protocols;  // Sec-WebSocket-Protocol, likewise
};

struct Refusal {
  int status = 0;
  std::string text;
  std::vector<std::string_view> accepted;  // X-Accepted-Stream-Protocol-Versions
};

struct Accepted {
  Grant grant;
  bool websocket = false;  // else SPDY/3.1
  std::string protocol;    // empty for a WebSocket client that names none
};

// Fills one of the two and returns true for `accepted`.
bool Decide(const RequestHead& head, Tokens& tokens, Accepted* accepted, Refusal* refusal);

}  // namespace caisson::stream

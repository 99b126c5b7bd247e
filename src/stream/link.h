// SPDX-License-Identifier: Apache-2.0
//
// Link: one client's connection after its HTTP upgrade, either a stream of bytes (SPDY) or of messages (WebSocket).
// LinkUser: the session that speaks over it.
//
// Life cycle: the connection owns its user and destroys it, always from the loop and never within a call of either, as
// soon as the client is gone or the user has asked for Finish or Abort. So a user needs no other sign of the client's
// end: its destructor frees all. All on the loop's thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace caisson::stream {

class Link {
 public:
  virtual ~Link() = default;
  // Queues bytes or, where the link has messages, one message.
  virtual void Send(std::string data) = 0;
  virtual void SendText(std::string data) = 0;
  // The same bytes as Send(head + body), for much data: what the connection takes at once is not copied.
  virtual void Send(std::string_view head, std::string_view body) = 0;
  // True when more than limits::kStreamQueueBytes are queued: then producers wait for OnWritable.
  virtual bool Congested() const = 0;
  // While paused nothing more is read from the client (beyond what has been read already).
  virtual void PauseReading(bool paused) = 0;
  // What is queued still goes out, then the connection is closed in good order. The user is destroyed soon.
  virtual void Finish() = 0;
  // Closed at once. The user is destroyed soon.
  virtual void Abort() = 0;
};

class LinkUser {
 public:
  virtual ~LinkUser() = default;
  // Bytes, or one whole message.
  virtual void OnReceive(std::string_view data) = 0;
  // The link is no longer congested.
  virtual void OnWritable() = 0;
};

}  // namespace caisson::stream

// SPDX-License-Identifier: Apache-2.0
//
// The server's side of one SPDY/3.1 connection over a link: stream table, flow control, limits. The client opens all
// streams.
//
// Flow control. The clients of this protocol (Go's spdystream and what copies it) neither send nor obey WINDOW_UPDATE:
// they count on TCP alone. So windows bind this side only once the peer has shown that it keeps them (a WINDOW_UPDATE
// or an initial window in SETTINGS), while this side always sends WINDOW_UPDATE for what was consumed, and stops
// reading from the link when a consumer falls behind. One thread, the loop's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "stream/link.h"
#include "stream/spdy_frame.h"

namespace caisson::stream {

class SpdyHandler {
 public:
  virtual ~SpdyHandler() = default;
  // False refuses the stream. The session has not answered yet: it replies after this returns true.
  virtual bool OnStream(uint32_t stream, const SpdyHeaders& headers) = 0;
  // The stream is open: data may be sent.
  virtual void OnStreamReady(uint32_t stream) = 0;
  virtual void OnData(uint32_t stream, std::string_view data, bool fin) = 0;
  // The client gave the stream up.
  virtual void OnReset(uint32_t stream) = 0;
  // A window opened: producers may go on.
  virtual void OnSendable() = 0;
};

class SpdySession : private SpdyVisitor {
 public:
  SpdySession(Link& link, SpdyHandler& handler) : link_(link), handler_(handler) {}

  void Receive(std::string_view bytes);
  void OnWritable() { UpdateReading(); }

  // On a stream that is closed: nothing happens.
  void Send(uint32_t stream, std::string_view data, bool fin);
  void Reset(uint32_t stream);
  // True when more data would only be queued.
  bool Congested(uint32_t stream) const;
  // The consumer of a stream has taken `bytes` of what OnData brought.
  void Consumed(uint32_t stream, size_t bytes);
  // A consumer is behind (or not any more): reading from the link stops.
  void SetBacklogged(bool backlogged);
  // Says goodbye and closes the link in good order.
  void Finish();

 private:
  struct Stream {
    bool local_fin = false, remote_fin = false;
    int64_t send_window = 0;
    uint32_t consumed = 0;  // not yet told to the peer
    std::string held;       // waits for the window
    bool held_fin = false;
  };

  void OnSynStream(uint32_t id, bool fin, bool unidirectional, SpdyHeaders headers) override;
  void OnSynReply(uint32_t id, bool fin) override;
  void OnHeaders(uint32_t id, bool fin) override;
  void OnRstStream(uint32_t id, uint32_t status) override;
  void OnSetting(uint32_t id, uint32_t value) override;
  void OnPing(uint32_t id) override;
  void OnGoAway(uint32_t last_good_stream) override;
  void OnWindowUpdate(uint32_t id, uint32_t delta) override;
  void OnData(uint32_t id, std::string_view piece, bool fin) override;

  void Flush(uint32_t id, Stream* stream);
  void CloseIfDone(uint32_t id);
  void UpdateReading();
  void Fail();

  Link& link_;
  SpdyHandler& handler_;
  SpdyParser parser_;
  SpdyWriter writer_;
  std::unordered_map<uint32_t, Stream> streams_;
  uint32_t last_stream_ = 0;
  int64_t initial_window_ = 64 << 10;
  bool peer_keeps_windows_ = false, going_away_ = false, dead_ = false, backlogged_ = false, paused_ = false;
};

}  // namespace caisson::stream

// SPDX-License-Identifier: Apache-2.0
#include "stream/spdy_session.h"

#include <algorithm>

#include "base/limits.h"

namespace caisson::stream {
namespace {

constexpr uint32_t kWindowUpdateStep = 32 << 10;
constexpr size_t kHeldBytes = limits::kStreamQueueBytes;

}  // namespace

void SpdySession::Receive(std::string_view bytes) {
  if (dead_) return;
  if (auto fed = parser_.Feed(bytes, *this); !fed) return Fail();
  UpdateReading();
}

// A session error (section 2.4.1): no frame after it can be trusted.
void SpdySession::Fail() {
  if (dead_) return;
  dead_ = true;
  link_.Send(SpdyWriter::GoAway(last_stream_, SpdyGoAway::kProtocolError));
  link_.Finish();
}

void SpdySession::Finish() {
  if (dead_) return;
  dead_ = true;
  link_.Send(SpdyWriter::GoAway(last_stream_, SpdyGoAway::kOk));
  link_.Finish();
}

// Answers (PING, RST_STREAM) to a client that does not read them are what can fill the queue beyond a producer's limit.
void SpdySession::UpdateReading() {
  bool wanted = backlogged_ || link_.Congested();
  if (wanted == paused_ || dead_) return;
  paused_ = wanted;
  link_.PauseReading(wanted);
}

void SpdySession::SetBacklogged(bool backlogged) {
  backlogged_ = backlogged;
  UpdateReading();
}

void SpdySession::OnSynStream(uint32_t id, bool fin, bool unidirectional, SpdyHeaders headers) {
  if (dead_) return;
  // Section 2.3.2: the client's ids are odd and grow.
  if (id % 2 == 0 || id <= last_stream_) return Fail();
  last_stream_ = id;
  if (going_away_ || unidirectional || streams_.size() >= limits::kSpdyStreams) {
    return link_.Send(SpdyWriter::RstStream(id, SpdyReset::kRefusedStream));
  }
  Stream& stream = streams_[id];
  stream.send_window = initial_window_;
  if (!handler_.OnStream(id, headers)) {
    streams_.erase(id);
    return link_.Send(SpdyWriter::RstStream(id, SpdyReset::kRefusedStream));
  }
  link_.Send(writer_.SynReply(id, {}));
  handler_.OnStreamReady(id);
  if (fin) OnData(id, {}, true);
}

void SpdySession::OnSynReply(uint32_t id, bool) {
  // This side opens no streams.
  if (!dead_) link_.Send(SpdyWriter::RstStream(id, SpdyReset::kInvalidStream));
}

void SpdySession::OnHeaders(uint32_t id, bool fin) {
  if (fin) OnData(id, {}, true);
}

void SpdySession::OnRstStream(uint32_t id, uint32_t) {
  if (dead_ || streams_.erase(id) == 0) return;
  handler_.OnReset(id);
}

void SpdySession::OnSetting(uint32_t id, uint32_t value) {
  if (id != kSpdySettingsInitialWindow) return;
  peer_keeps_windows_ = true;
  // Section 2.6.8: a new initial size moves the windows of open streams as well.
  int64_t window = value & 0x7fffffff;
  for (auto& [unused, stream] : streams_) stream.send_window += window - initial_window_;
  initial_window_ = window;
}

void SpdySession::OnPing(uint32_t id) {
  // Odd ids are the client's pings; an even one would be the answer to one of ours, and there are none.
  if (!dead_ && id % 2 == 1) link_.Send(SpdyWriter::Ping(id));
}

void SpdySession::OnGoAway(uint32_t) { going_away_ = true; }

void SpdySession::OnWindowUpdate(uint32_t id, uint32_t delta) {
  peer_keeps_windows_ = true;
  auto found = streams_.find(id);
  if (found == streams_.end() || dead_) return;
  Stream& stream = found->second;
  stream.send_window += delta;
  if (stream.send_window > INT32_MAX) {
    Reset(id);
    return handler_.OnReset(id);
  }
  if (stream.held.empty() && !stream.held_fin) return;
  Flush(id, &stream);
  handler_.OnSendable();
}

void SpdySession::OnData(uint32_t id, std::string_view piece, bool fin) {
  if (dead_) return;
  auto found = streams_.find(id);
  if (found == streams_.end()) {
    // A stream that was closed a moment ago may still have data under way; one that never was is an error.
    if (id > last_stream_ && fin) link_.Send(SpdyWriter::RstStream(id, SpdyReset::kInvalidStream));
    return;
  }
  if (found->second.remote_fin) {
    Reset(id);
    return handler_.OnReset(id);
  }
  if (fin) found->second.remote_fin = true;
  handler_.OnData(id, piece, fin);
  if (fin) CloseIfDone(id);
}

void SpdySession::Send(uint32_t id, std::string_view data, bool fin) {
  auto found = streams_.find(id);
  if (dead_ || found == streams_.end()) return;
  Stream& stream = found->second;
  if (stream.local_fin || stream.held_fin) return;
  if (!peer_keeps_windows_) {
    stream.send_window -= static_cast<int64_t>(data.size());
    stream.local_fin = fin;
    link_.Send(SpdyWriter::DataHead(id, data.size(), fin), data);
  } else {
    stream.held.append(data);
    stream.held_fin = fin;
    Flush(id, &stream);
    return;
  }
  CloseIfDone(id);
}

void SpdySession::Flush(uint32_t id, Stream* stream) {
  auto size =
      static_cast<size_t>(std::clamp<int64_t>(stream->send_window, 0, static_cast<int64_t>(stream->held.size())));
  bool fin = stream->held_fin && size == stream->held.size();
  if (size == 0 && !fin) return;
  link_.Send(SpdyWriter::DataHead(id, size, fin), std::string_view(stream->held).substr(0, size));
  stream->held.erase(0, size);
  stream->send_window -= static_cast<int64_t>(size);
  if (!fin) return;
  stream->local_fin = true;
  CloseIfDone(id);
}

void SpdySession::CloseIfDone(uint32_t id) {
  auto found = streams_.find(id);
  if (found != streams_.end() && found->second.local_fin && found->second.remote_fin) streams_.erase(found);
}

void SpdySession::Reset(uint32_t id) {
  if (dead_ || streams_.erase(id) == 0) return;
  link_.Send(SpdyWriter::RstStream(id, SpdyReset::kCancel));
}

bool SpdySession::Congested(uint32_t id) const {
  auto found = streams_.find(id);
  return link_.Congested() || (found != streams_.end() && found->second.held.size() > kHeldBytes);
}

void SpdySession::Consumed(uint32_t id, size_t bytes) {
  auto found = streams_.find(id);
  if (dead_ || found == streams_.end()) return;
  found->second.consumed += static_cast<uint32_t>(bytes);
  if (found->second.consumed < kWindowUpdateStep || found->second.remote_fin) return;
  link_.Send(SpdyWriter::WindowUpdate(id, found->second.consumed));
  found->second.consumed = 0;
}

}  // namespace caisson::stream

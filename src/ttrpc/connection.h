// SPDX-License-Identifier: Apache-2.0
//
// Connection: frames over one stream on an event loop: a socket, or a non-blocking character device (the port of a
// virtio console). What cannot be written at once is queued, to
// a bound; a peer that does not read loses the connection. One thread, the loop's.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/event_loop.h"
#include "ttrpc/frame.h"

namespace caisson::ttrpc {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  static constexpr size_t kMaxQueuedBytes = 64 << 20;

  Connection(sys::EventLoop* loop, UniqueFd socket) : loop_(loop), socket_(std::move(socket)) {}
  ~Connection() { Close(); }

  // Begins to read. `on_frame` runs for each frame; `on_end` once, with the reason, when the connection has ended by the
  // peer or by an error, never by Close.
  Result<> Start(std::function<void(Frame)> on_frame, std::function<void(Error)> on_end);
  // Sends or queues. After the end: nothing happens. Errors: a payload past the limit.
  Result<> Send(const Frame& frame);
  void Close();
  bool closed() const { return !socket_.valid(); }

 private:
  void OnEvents(uint32_t events);
  void ReadSome();
  void Flush();
  void End(Error why);
  ssize_t Receive(char* to, size_t size);
  ssize_t Transmit(const char* from, size_t size);

  sys::EventLoop* loop_;
  UniqueFd socket_;
  bool is_socket_ = true;
  FrameReader reader_;
  std::deque<std::string> queue_;
  size_t queued_bytes_ = 0, sent_of_first_ = 0;
  bool watching_writes_ = false;
  std::function<void(Frame)> on_frame_;
  std::function<void(Error)> on_end_;
};

}  // namespace caisson::ttrpc

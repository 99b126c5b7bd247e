// SPDX-License-Identifier: Apache-2.0
//
// Streams: connections to ports on the guest's loopback, whose bytes the companion asks for and sends by calls: what is not
// asked for stays in the socket, and holds its sender up. One thread, the loop's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/event_loop.h"
#include "task/kept_output.h"
#include "task/scratch.h"

namespace caisson::agent {

class Streams {
 public:
  using Done = std::function<void(Result<>)>;

  explicit Streams(sys::EventLoop* loop) : loop_(loop), scratch_(loop) {}

  // kAlreadyExists for the id, kResourceExhausted beyond limits::kGuestStreams; what connect(2) says.
  void Dial(const std::string& id, uint16_t port, int64_t deadline_millis, Done done);
  void Read(const std::string& id, size_t max, task::KeptOutput::Reader reader);
  void Write(const std::string& id, std::string bytes, Done done);
  void Close(const std::string& id, bool only_write);

 private:
  struct Stream;
  struct Dialing;
  void TryNext(const std::shared_ptr<Dialing>& dialing);
  void OnConnected(const std::shared_ptr<Dialing>& dialing, UniqueFd fd);

  sys::EventLoop* loop_;
  task::Scratch scratch_;
  std::map<std::string, std::shared_ptr<Stream>> streams_;
};

}  // namespace caisson::agent

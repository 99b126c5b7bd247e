// SPDX-License-Identifier: Apache-2.0
//
// PodConnector makes TCP connections to ports inside pods, for PortForward: to 127.0.0.1 and, if nobody answers there, to
// ::1, in the pod's network namespace. Works on an event loop and its thread, which it takes into the namespace only to
// make a socket (a socket stays in the namespace it was made in, network_namespaces(7)).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/event_loop.h"

namespace caisson::cri {

class PodConnector {
 public:
  using Done = std::function<void(Result<UniqueFd>)>;

  // `loop` outlives it, and runs on a thread of the namespace that is this one's now.
  static Result<std::unique_ptr<PodConnector>> Create(sys::EventLoop* loop);

  // On the loop's thread. `netns_path` empty: the host's. `done` is called once, at once or within
  // limits::kForwardConnectMillis, with a connected non-blocking socket.
  void Connect(const std::string& netns_path, uint16_t port, Done done);

 private:
  struct Attempt;
  PodConnector(sys::EventLoop* loop, UniqueFd home) : loop_(loop), home_(std::move(home)) {}
  Result<UniqueFd> Socket(const std::string& netns_path, int family);
  void Try(const std::shared_ptr<Attempt>& attempt, int family);
  void Failed(const std::shared_ptr<Attempt>& attempt, Error error);
  void Finish(const std::shared_ptr<Attempt>& attempt, Result<UniqueFd> result);

  sys::EventLoop* loop_;
  UniqueFd home_;  // the host's namespace
};

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// GuestForwards: connections from the host to ports of a VM pod: the agent dials the port, and what comes from one end goes to the other
// until both have ended or one breaks. The other end is the caller's unix socket (Pod.Forward), or who has dialled localhost in the pod's
// network namespace, as containerd forwards ports. One thread, the loop's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "caisson/pod/v1/pod.pb.h"
#include "net/any_port.h"
#include "shim/guest_client.h"
#include "shim/guest_stdio.h"
#include "sys/event_loop.h"

namespace caisson::shim {

class GuestForwards {
 public:
  using Done = std::function<void(Result<pod::v1::ForwardResponse>)>;

  // Both outlive it.
  GuestForwards(sys::EventLoop* loop, GuestClient* client) : loop_(loop), client_(client) {}
  ~GuestForwards() { StopListening(); }
  GuestForwards(const GuestForwards&) = delete;
  GuestForwards& operator=(const GuestForwards&) = delete;

  void Start(const pod::v1::ForwardRequest& request, Done done);
  // From now on every TCP port of localhost in the caller's network namespace is the guest's (net/any_port.h), at most
  // limits::kLocalForwards connections at once. Once.
  Result<> Listen();
  void StopListening();

 private:
  struct Forward;
  using Socket = std::function<Result<UniqueFd>()>;

  // The agent dials `port`; then `other_end` is asked for the other.
  void Dial(uint32_t port, int64_t deadline_millis, Socket other_end, std::function<void(Result<>)> done);
  Result<> Connect(const std::string& id, UniqueFd socket);
  void Accept();
  void End(const std::string& id);

  sys::EventLoop* loop_;
  GuestClient* client_;
  uint64_t count_ = 0;
  std::map<std::string, std::shared_ptr<Forward>> forwards_;
  std::optional<net::AnyPort> local_;
  size_t dialling_ = 0;  // connections to `local_` that the agent has not answered
};

}  // namespace caisson::shim

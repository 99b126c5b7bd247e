// SPDX-License-Identifier: Apache-2.0
//
// GuestForwards: connections from the host to ports of a VM pod (Pod.Forward): the agent dials the port, we dial the caller's
// unix socket, and what comes from one goes to the other until both have ended or one breaks. One thread, the loop's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "caisson/pod/v1/pod.pb.h"
#include "shim/guest_client.h"
#include "shim/guest_stdio.h"
#include "sys/event_loop.h"

namespace caisson::shim {

class GuestForwards {
 public:
  using Done = std::function<void(Result<pod::v1::ForwardResponse>)>;

  // Both outlive it.
  GuestForwards(sys::EventLoop* loop, GuestClient* client) : loop_(loop), client_(client) {}

  void Start(const pod::v1::ForwardRequest& request, Done done);

 private:
  struct Forward;
  Result<> Connect(const std::string& id, const std::string& socket_path);
  void End(const std::string& id);

  sys::EventLoop* loop_;
  GuestClient* client_;
  uint64_t count_ = 0;
  std::map<std::string, std::shared_ptr<Forward>> forwards_;
};

}  // namespace caisson::shim

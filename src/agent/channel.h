// SPDX-License-Identifier: Apache-2.0
//
// Channel: the agent's end of the stream to its companion, the port of a virtio console: opened, greeted, served; and again
// when it has ended (the companion of a clone is another than the template's). One thread, the loop's.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "sys/event_loop.h"
#include "ttrpc/greeting.h"
#include "ttrpc/server.h"

namespace caisson::agent {

inline constexpr char kPortName[] = "caisson.agent.0";

// "/dev/vport0p1" of the port of that name (Documentation/ABI, /sys/class/virtio-ports). kNotFound: there is none (yet).
Result<std::string> FindPort(const std::string& name);

class Channel {
 public:
  // Both outlive it.
  Channel(sys::EventLoop* loop, ttrpc::Server* server) : loop_(loop), server_(server) {}
  // Serves whoever comes, for ever. Errors: there is no port.
  Result<> Open();

 private:
  Result<> Listen();
  void OnGreeted(Result<UniqueFd> stream);
  void Again();

  sys::EventLoop* loop_;
  ttrpc::Server* server_;
  std::string path_;
  std::unique_ptr<ttrpc::Greeting> greeting_;
};

}  // namespace caisson::agent

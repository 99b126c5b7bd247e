// SPDX-License-Identifier: Apache-2.0
//
// Channel: the agent's end of the stream to its companion, the port of a virtio console: opened, greeted, served; and again
// when it has ended (the companion of a clone is another than the template's). One thread, the loop's.
#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "sys/event_loop.h"
#include "ttrpc/greeting.h"
#include "ttrpc/server.h"

namespace caisson::agent {

inline constexpr char kPortName[] = "caisson.agent.0";

inline constexpr char kPortsDir[] = "/sys/class/virtio-ports";

// "/dev/vport0p1" of the port of that name, by the folder of all ports (drivers/char/virtio_console.c; its attribute "name"). kNotFound, ENOENT: there is none (yet).
Result<std::string> FindPort(const std::string& name, const std::string& ports = kPortsDir);

// The same, for a machine that has just booted: the VMM says a port's name in a message of its own, some time after the port
// is there (virtio 1.1, 5.3.6.2, VIRTIO_CONSOLE_PORT_NAME). Blocks; FindPort's error at the deadline.
Result<std::string> AwaitPort(const std::string& name, const Deadline& deadline, const std::string& ports = kPortsDir);

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

// SPDX-License-Identifier: Apache-2.0
//
// Supervise: all that PID 1 of the guest does once the machine is prepared. It reaps whatever ends, tells the messenger of it (the
// containers' processes come to PID 1 when their launcher has ended), and forks a launcher for each connection that the messenger hands
// it, in the container's cgroup and PID namespace where it is to become one of a container's processes. Of what the messenger sends it
// looks at nothing but the descriptors.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

#include "base/limits.h"
#include "base/unique_fd.h"
#include "task/ended_processes.h"

namespace caisson::agent {

struct SupervisorOptions {
  // All of its own, made before the first of them is started.
  std::unique_ptr<task::EndedProcesses> children;
  pid_t messenger = 0;
  UniqueFd socket;  // the pair with it (launch_socket.h)
  pid_t settler = 0;  // whose end nobody is told of; 0: none
  size_t notices = limits::kGuestNotices;  // that may wait for the messenger to take them
  // In a new process, which ends when it returns.
  std::function<void(UniqueFd connection)> launch;
};

// Returns why there is nothing to supervise any more: the
// messenger has ended, says what it must not, or does not listen.
std::string Supervise(SupervisorOptions options);

}  // namespace caisson::agent

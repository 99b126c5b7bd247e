// SPDX-License-Identifier: Apache-2.0
//
// SharedFolders: the folders that the pod shares with its host, one FUSE file system at kSharedDir with a folder for each in it.
// What the kernel asks of it is carried to the host by two processes of ours, one for each direction, and the answers back, as
// they are: a container that is being made may itself wait for such an answer, and the agent for the container. The agent
// touches nothing below kSharedDir for the same reason. They have no rights but to read and write what they hold.
//
// When one of the two ends so does the agent, and with it the machine. One thread, the loop's.
#pragma once

#include <functional>
#include <vector>

#include "agent/launches.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/event_loop.h"

namespace caisson::agent {

inline constexpr char kSharedDir[] = "/run/caisson/shared";

// The launchers' part: mounts them and starts both processes; their pidfds. ENOENT, ENXIO or ENODEV: the kernel has no /dev/fuse yet.
Result<std::vector<UniqueFd>> MountSharedFolders();

class SharedFolders {
 public:
  using Done = std::function<void(Result<>)>;

  // Both outlive it.
  SharedFolders(sys::EventLoop* loop, Launches* launches) : loop_(loop), launches_(launches) {}

  // Waits for /dev/fuse: its module is loaded after the agent's first word. Idempotent. Errors name what is not there.
  void Share(int64_t deadline_millis, Done done);

 private:
  Result<> Watch(std::vector<UniqueFd> carriers);

  sys::EventLoop* loop_;
  Launches* launches_;
  bool shared_ = false;
};

// Carries whole messages, each of which begins with its length in the machine's order, from `from` to `to`, until one of them
// ends: returns why. `messages`: each read(2) gives exactly one, as /dev/fuse does; else each write(2) is given exactly one.
Result<> CarryMessages(int from, int to, bool messages);

}  // namespace caisson::agent

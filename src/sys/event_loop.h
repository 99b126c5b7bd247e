// SPDX-License-Identifier: Apache-2.0
//
// EventLoop: one thread, one epoll set (epoll(7)), timers on the monotonic clock. Callbacks run on the loop's thread,
// one at a time, and must not block. The companion and the agent are one loop and nothing else; the daemon runs its
// ttRPC clients on one loop thread.
//
// Ownership: the loop never owns a descriptor. Whoever watches one unwatches it before closing it. A callback may
// unwatch itself or others and destroy its own closure; no callback runs for a watch that was removed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/result.h"

namespace caisson::sys {

class EventLoop {
 public:
  using FdCallback = std::function<void(uint32_t events)>;  // EPOLLIN | EPOLLOUT | EPOLLHUP | …
  using Task = std::function<void()>;
  using TimerId = uint64_t;

  static Result<std::unique_ptr<EventLoop>> Create();
  virtual ~EventLoop() = default;

  // Watches `fd` for `events` (level-triggered). One watch per descriptor.
  virtual Result<> Watch(int fd, uint32_t events, FdCallback callback) = 0;
  // Changes the events of a watched descriptor.
  virtual Result<> Modify(int fd, uint32_t events) = 0;
  // Nothing happens if `fd` is not watched.
  virtual void Unwatch(int fd) = 0;

  // Runs `task` once after `millis`. The id is never 0.
  virtual TimerId After(int64_t millis, Task task) = 0;
  // Nothing happens if the timer has run or is unknown.
  virtual void CancelTimer(TimerId id) = 0;

  // Runs `task` on the loop's thread. The only thread-safe method, beside Stop.
  virtual void Post(Task task) = 0;
  // Dispatches until Stop. Errors: epoll_wait(2) failing.
  virtual Result<> Run() = 0;
  // Thread-safe. Counts also before Run: a thread that is about to run the loop then finds it stopped.
  virtual void Stop() = 0;
};

}  // namespace caisson::sys

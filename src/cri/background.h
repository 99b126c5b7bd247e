// SPDX-License-Identifier: Apache-2.0
//
// Background: work that no RPC waits for. Post runs short tasks one after another on one thread (exits are recorded
// there); Start gives a task that may block a thread of its own. Thread-safe. Stop finishes what was posted and waits
// for all threads; nothing runs afterwards.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace caisson::cri {

class Background {
 public:
  using Task = std::function<void()>;

  Background();
  ~Background() { Stop(); }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  void Post(Task task);
  void Start(Task task);
  void Stop();
  // Whether Stop was called: a long task gives up.
  bool stopping();

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> queue_;
  int started_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace caisson::cri

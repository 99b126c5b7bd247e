// SPDX-License-Identifier: Apache-2.0
//
// Output: the reading end of a process's stdout, stderr or terminal on the event loop: what arrives goes to a sink until
// the end. One thread, the loop's.
#pragma once

#include <functional>
#include <string_view>

#include "base/unique_fd.h"
#include "sys/event_loop.h"

namespace caisson::task {

class Output {
 public:
  using Sink = std::function<void(std::string_view bytes)>;

  // Takes over `fd` and reads from now on. `on_end` runs once, when the last writer has closed its end; the Output may
  // be destroyed from it. `loop` outlives it.
  Output(sys::EventLoop* loop, UniqueFd fd, Sink sink, std::function<void()> on_end);
  ~Output();

  // Reads what is there now, without waiting: after its writer's death all that it wrote.
  void Drain();
  bool ended() const { return !fd_.valid(); }

 private:
  void OnReadable();
  // False when there is nothing now; at the end it closes.
  bool ReadOnce();
  void End();

  sys::EventLoop* loop_;
  UniqueFd fd_;
  Sink sink_;
  std::function<void()> on_end_;
};

}  // namespace caisson::task

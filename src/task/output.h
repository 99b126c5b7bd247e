// SPDX-License-Identifier: Apache-2.0
//
// Output: the reading end of a process's stdout, stderr or terminal on the event loop: what arrives goes to a sink until
// the end. One thread, the loop's.
#pragma once

#include <cstddef>
#include <functional>
#include <string_view>

#include "base/unique_fd.h"
#include "sys/event_loop.h"
#include "task/scratch.h"

namespace caisson::task {

class Output {
 public:
  using Sink = std::function<void(std::string_view bytes)>;
  // More than a pipe can hold (pipe(7), /proc/sys/fs/pipe-max-size): what a dead process has left.
  static constexpr size_t kDrainBytes = 4 << 20;

  // Takes over `fd` and reads from now on. `on_end` runs once, when the last writer has closed its end; the Output is not
  // destroyed from it. `loop` and `scratch` outlive it.
  Output(sys::EventLoop* loop, Scratch* scratch, UniqueFd fd, Sink sink, std::function<void()> on_end);
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output();

  // Paused nothing is read, so that a writer has to wait when its pipe is full. May be called by the sink.
  void Pause(bool paused);
  // Reads what is there now, without waiting and not endlessly: after its writer's death all that it wrote.
  void Drain();
  bool ended() const { return !fd_.valid(); }
  // What is read from, -1 after the end; still owned by this object.
  int source() const { return fd_.get(); }

 private:
  void OnReadable();
  // How much came; 0 when there is nothing now, while it is paused or, after closing, never again.
  size_t ReadOnce();
  void End();

  sys::EventLoop* loop_;
  Scratch* scratch_;
  UniqueFd fd_;
  bool enlarged_ = false, paused_ = false;
  Sink sink_;
  std::function<void()> on_end_;
};

}  // namespace caisson::task

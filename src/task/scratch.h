// SPDX-License-Identifier: Apache-2.0
//
// Scratch: two buffers through which the bytes of all streams of an event loop pass, one at a time: what is read goes
// into in(), what is made of it for a log into out(). Nothing is kept in them between two events, so their pages go
// back to the kernel when a burst is over: a companion that is idle pays nothing for them. One thread, the loop's.
#pragma once

#include <cstddef>

#include "sys/event_loop.h"

namespace caisson::task {

class Scratch {
 public:
  static constexpr size_t kBytes = 256 << 10;

  // `loop` outlives it.
  explicit Scratch(sys::EventLoop* loop);
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();

  char* in() { return memory_; }
  char* out() { return memory_ + kBytes; }
  // Says how much of a buffer was used; after a pause without much use the memory is given back.
  void Used(size_t bytes);

 private:
  void GiveBack();

  sys::EventLoop* loop_;
  char* memory_;
  sys::EventLoop::TimerId timer_ = 0;
  bool used_since_ = false;
};

}  // namespace caisson::task

// SPDX-License-Identifier: Apache-2.0
//
// Pump copies from one descriptor to another on the event loop: between a process's stdio and the FIFOs of a client that
// wants the bytes themselves (containerd's shim protocol). A slow side holds the other up; nothing is lost or piled up.
// Between two pipes the kernel moves the pages (splice(2)). One thread, the loop's.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "sys/event_loop.h"
#include "task/scratch.h"

namespace caisson::task {

class Pump {
 public:
  // Takes over both descriptors and makes them non-blocking. When `from` has ended and all is written, or `to` has no
  // reader any more, both are closed and `on_end` runs, once; the Pump is not destroyed from it.
  Pump(sys::EventLoop* loop, Scratch* scratch, UniqueFd from, UniqueFd to, std::function<void()> on_end);
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;
  ~Pump();

  // Copies what is there now as far as the other side takes it.
  void Drain();
  bool ended() const { return !from_.valid(); }
  // What is read from, -1 after the end; still owned by this object.
  int source() const { return from_.get(); }

 private:
  enum class Step { kCopied, kSourceEmpty, kSinkFull, kOver };
  void Go();
  // Copies `rounds` times at most.
  void Copy(int rounds);
  Step CopyOnce();
  Step Splice();
  // False when the other side has gone: then all is over.
  bool WriteSome(std::string_view* bytes);
  // True when nothing is left to write.
  bool WritePending();
  void Wait(bool for_writing);
  void End();

  sys::EventLoop* loop_;
  Scratch* scratch_;
  UniqueFd from_, to_;
  std::string pending_;
  bool spliced_ = false;           // both are pipes
  bool enlarged_ = false;          // the one that is written to
  bool waiting_to_write_ = false;
  std::function<void()> on_end_;
};

}  // namespace caisson::task

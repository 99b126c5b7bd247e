// SPDX-License-Identifier: Apache-2.0
//
// QueuedInput: bytes for a process's stdin that come by calls (Pod.WriteInput). A call is answered when all of its bytes are in
// the pipe, so a process that does not read holds up its client and nobody else. One thread, the loop's.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/event_loop.h"

namespace caisson::task {

class QueuedInput {
 public:
  using Done = std::function<void(Result<>)>;

  // Takes over a pipe's writing end, or a descriptor of a terminal's master. `loop` outlives it.
  QueuedInput(sys::EventLoop* loop, UniqueFd fd);
  QueuedInput(const QueuedInput&) = delete;
  QueuedInput& operator=(const QueuedInput&) = delete;
  // What has not been written is not; its caller hears so.
  ~QueuedInput();

  // kFailedPrecondition while another write waits, or when nobody reads any more.
  void Write(std::string bytes, Done done);

 private:
  void WriteSome();
  void Finish(Result<> result);

  sys::EventLoop* loop_;
  UniqueFd fd_;
  std::string bytes_;
  size_t written_ = 0;
  bool watched_ = false;
  Done done_;
};

}  // namespace caisson::task

// SPDX-License-Identifier: Apache-2.0
//
// Streams of bytes from and into a guest, carried by calls: the stdio of its processes (Pod.ReadOutput, Pod.WriteInput),
// connections to its ports (Guest.ReadStream, Guest.WriteStream). GuestOutput brings them here, GuestInput there. A slow side holds the other up; nothing is lost or piled up. A guest that lies (more than was asked
// for, no end after the process's, no answer) is not listened to for ever. One thread, the loop's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "shim/guest_client.h"
#include "sys/event_loop.h"

namespace caisson::shim {

// Where bytes come from and go to in the guest, as calls.
struct GuestPipe {
  struct Part {
    std::string data;
    bool ended = false;
  };
  // `no_wait`: what is there now, if only nothing.
  std::function<void(bool no_wait, std::function<void(Result<Part>)> done)> read;
  std::function<void(std::string bytes, std::function<void(bool ok)> done)> write;
  std::function<void()> close_write;
};

// The stdio of a process; `exec_id` empty: the container's init. `client` outlives it.
GuestPipe ProcessPipe(GuestClient* client, const std::string& container_id, const std::string& exec_id, bool is_stderr);
// A connection that was dialed under `id`.
GuestPipe StreamPipe(GuestClient* client, const std::string& id);

class GuestOutput : public std::enable_shared_from_this<GuestOutput> {
 public:
  // `next` is called when more may come, at once or later.
  using Sink = std::function<void(const std::string& bytes, std::function<void()> next)>;

  // How long an answer may take once the process has ended.
  static constexpr int64_t kLastMillis = GuestClient::kTimeoutMillis;

  // `on_end` runs once, when nothing will come any more. `loop` outlives it.
  GuestOutput(sys::EventLoop* loop, GuestPipe pipe, Sink sink, std::function<void()> on_end, int64_t last_millis = kLastMillis)
      : loop_(loop), pipe_(std::move(pipe)), sink_(std::move(sink)), on_end_(std::move(on_end)), last_millis_(last_millis) {}
  ~GuestOutput() { loop_->CancelTimer(timer_); }

  void Start() { Ask(); }
  // The process has ended: `drained` runs when all that it wrote has reached the sink. Others may still hold its output: what comes of it is
  // brought up to a bound.
  void OnExit(std::function<void()> drained);
  // Nothing more is brought; the sink is not called any more.
  void Stop();
  bool ended() const { return ended_; }

 private:
  void Ask();
  void OnPart(bool no_wait, const std::string& data, bool ended);
  // What the guest does is not what one does that means well.
  bool Lies(bool no_wait, const std::string& data);
  void AwaitLast();
  void End();
  void Drained();

  sys::EventLoop* loop_;
  const GuestPipe pipe_;
  Sink sink_;
  std::function<void()> on_end_;
  const int64_t last_millis_;
  bool exited_ = false, busy_ = false, reading_ = false, ended_ = false;
  size_t bytes_after_exit_ = 0, parts_after_exit_ = 0, empty_parts_ = 0;
  sys::EventLoop::TimerId timer_ = 0;
  std::vector<std::function<void()>> drained_;
};

class GuestInput {
 public:
  // Takes over `from`, the reading end of a pipe or FIFO, or a socket, and reads from Start on. Its end is passed on; then
  // `on_end` runs, or when the guest takes no more. It may destroy us.
  GuestInput(sys::EventLoop* loop, GuestPipe pipe, UniqueFd from, std::function<void()> on_end = nullptr);
  GuestInput(const GuestInput&) = delete;
  GuestInput& operator=(const GuestInput&) = delete;
  ~GuestInput();

  void Start() { Watch(); }
  bool ended() const { return !from_.valid(); }

 private:
  void Watch();
  void OnReadable();
  void End();

  sys::EventLoop* loop_;
  const GuestPipe pipe_;
  UniqueFd from_;
  std::function<void()> on_end_;
  bool watched_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// A sink that writes to a client's FIFO or a socket, which it takes over and closes with itself. Its reader holds the output
// up. When nobody can read it any more what comes is dropped, or `on_broken` runs instead.
GuestOutput::Sink SinkTo(sys::EventLoop* loop, UniqueFd fd, std::function<void()> on_broken = nullptr);

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
//
// GuestClock: keeps the clock of a running guest with the host's. It is compared when this one is set (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET: also after the host
// has slept) and from time to time: an emulated guest's drifts, and one that stood still may be late. What is wrong beyond what the question's own
// time makes doubtful is told as a difference, so that a call that takes long does no harm. The guest judges how it gets there (agent/guest_clock.h).
// A guest that leaves some questions in a row unanswered is silent: it is told of once.
// One thread, the loop's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/result.h"
#include "base/unique_fd.h"
#include "shim/guest_client.h"
#include "sys/event_loop.h"

namespace caisson::shim {

class GuestClock {
 public:
  struct Times {
    int64_t look_millis = 30'000;                          // from an answer to the next question
    int64_t answer_millis = GuestClient::kTimeoutMillis;   // for an answer
  };
  static constexpr int64_t kToleranceNanos = 1'000'000;
  static constexpr int kUnanswered = 3;

  // Both outlive it. `on_silence` may stop or end it.
  GuestClock(sys::EventLoop* loop, GuestClient* client, std::function<void()> on_silence, Times times) : loop_(loop), client_(client), on_silence_(std::move(on_silence)), times_(times) {}
  GuestClock(const GuestClock&) = delete;
  GuestClock& operator=(const GuestClock&) = delete;
  ~GuestClock() { Stop(); }

  // The guest answers. Looks at once, then as above. Errors: there is no timer to be had; it looks from time to time all the same.
  Result<> Start();
  void Stop();

 private:
  Result<> Arm();
  void OnJump();
  void Look();
  void Adjust(int64_t nanos);

  sys::EventLoop* loop_;
  GuestClient* client_;
  const std::function<void()> on_silence_;
  const Times times_;
  UniqueFd jumps_;
  sys::EventLoop::TimerId timer_ = 0;
  bool asking_ = false, again_ = false;
  int unanswered_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
#include "shim/guest_clock.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "caisson/guest/v1/guest.pb.h"

namespace caisson::shim {
namespace {
constexpr time_t kNever = 10LL * 365 * 24 * 3600;  // from now; armed anew with each jump of the clock
}  // namespace

Result<> GuestClock::Arm() {
  itimerspec when{};
  when.it_value.tv_sec = static_cast<time_t>(NowNanos() / kNanosPerSecond) + kNever;
  if (timerfd_settime(jumps_.get(), TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &when, nullptr) != 0) return ErrnoError("watch the host's clock");
  return {};
}

Result<> GuestClock::Start() {
  Look();
  jumps_ = UniqueFd(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!jumps_) return ErrnoError("make a timer of the host's clock");
  TRY(Arm());
  return loop_->Watch(jumps_.get(), EPOLLIN, [this](uint32_t) { OnJump(); });
}

void GuestClock::Stop() {
  if (jumps_) loop_->Unwatch(jumps_.get());
  jumps_.Reset();
  loop_->CancelTimer(std::exchange(timer_, 0));
  alive_ = std::make_shared<bool>(true);
  asking_ = again_ = false;
  unanswered_ = 0;
}

void GuestClock::OnJump() {
  uint64_t times;
  (void)!read(jumps_.get(), &times, sizeof times);  // ECANCELED: it was set
  auto armed = Arm();
  if (!armed) {
    log::Warn("{}", armed.error().message);
    loop_->Unwatch(jumps_.get());
  }
  asking_ ? void(again_ = true) : Look();
}

void GuestClock::Look() {
  loop_->CancelTimer(std::exchange(timer_, 0));
  asking_ = true;
  guest::v1::SetTimeRequest request;
  request.set_relative(true);
  const int64_t began = MonotonicNanos();  // first: whatever comes between is doubt too
  const int64_t asked = NowNanos();
  client_->Call<guest::v1::SetTimeResponse>(
      guest_service::kGuest, "SetTime", request, times_.answer_millis,
      [this, asked, began, alive = std::weak_ptr(alive_)](Result<guest::v1::SetTimeResponse> told) {
        if (alive.expired()) return;
        asking_ = false;
        const int64_t half = (MonotonicNanos() - began) / 2;
        const bool silent = !told && told.error().code == Code::kDeadlineExceeded;
        unanswered_ = silent ? unanswered_ + 1 : 0;
        if (unanswered_ == kUnanswered) return on_silence_();
        timer_ = loop_->After(std::exchange(again_, false) || silent ? 0 : times_.look_millis, [this] { timer_ = 0, Look(); });
        // It may say anything of its clock: it is its own.
        if (!told || told->now_nanos() < 0) return;
        const int64_t behind = asked + half - told->now_nanos();
        if (std::llabs(behind) > kToleranceNanos + half) Adjust(behind);
      });
}

void GuestClock::Adjust(int64_t nanos) {
  guest::v1::SetTimeRequest request;
  request.set_relative(true);
  request.set_adjust_nanos(nanos);
  client_->Call<guest::v1::SetTimeResponse>(guest_service::kGuest, "SetTime", request, GuestClient::kTimeoutMillis,
                                            [this](Result<guest::v1::SetTimeResponse> set) {
                                              if (!set && !client_->ended()) log::Warn("set the guest's clock: {}", set.error().message);
                                            });
}

}  // namespace caisson::shim

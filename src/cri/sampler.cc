// SPDX-License-Identifier: Apache-2.0
#include "cri/sampler.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/clock.h"

namespace caisson::cri {
namespace {

constexpr int64_t kGivenNanos = kNanosPerSecond / 2;     // how long one sample is given out
constexpr int64_t kInterestNanos = 60 * kNanosPerSecond;  // after the last question
constexpr int64_t kLateNanos = kNanosPerSecond;           // a thread that is late makes nobody read

}  // namespace

Sampler::Sampler(int64_t seconds, Take take, Clock clock)
    : interval_nanos_(seconds * kNanosPerSecond), take_(std::move(take)), clock_(clock ? clock : MonotonicNanos), threaded_(!clock) {}

Sampler::~Sampler() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

Sampler::Given Sampler::Get(Ask ask) {
  if (interval_nanos_ == 0) return std::make_shared<const StatsSample>(take_(ask));
  std::unique_lock lock(mutex_);
  Kind& kind = kinds_[static_cast<size_t>(ask)];
  bool awake = kind.asked_at != 0;
  kind.asked_at = clock_();
  if (!awake && threaded_) {
    if (!thread_.joinable()) thread_ = std::thread([this] { Loop(); });
    changed_.notify_all();
  }
  auto usable = [&] {
    int64_t now = clock_();
    if (!kind.sample || kind.changes != changes_) return false;
    // One that nobody has seen may be as old as it gets; one that was seen is for those who ask at about the same time.
    return kind.given_at == 0 ? now - kind.taken_at <= interval_nanos_ + kLateNanos : now - kind.given_at <= kGivenNanos;
  };
  // Bounded: taking one is, and whoever waits takes one itself then unless another has begun.
  while (!usable() && kind.taking) changed_.wait(lock);
  Given sample = usable() ? kind.sample : TakeNow(ask, lock);
  if (kind.given_at == 0 && kind.sample == sample) kind.given_at = clock_();
  return sample;
}

Sampler::Given Sampler::TakeNow(Ask ask, std::unique_lock<std::mutex>& lock) {
  Kind& kind = kinds_[static_cast<size_t>(ask)];
  kind.taking = true;
  uint64_t changes = changes_;
  lock.unlock();
  auto sample = std::make_shared<const StatsSample>(take_(ask));
  lock.lock();
  kind.taking = false;
  kind.sample = sample;
  kind.changes = changes;
  kind.taken_at = clock_();
  kind.given_at = 0;
  changed_.notify_all();
  return sample;
}

void Sampler::Outdate() {
  std::lock_guard lock(mutex_);
  ++changes_;
}

int64_t Sampler::TakeDue() {
  std::unique_lock lock(mutex_);
  int64_t next = -1;
  for (size_t i = 0; i < kAsks && !stopping_; ++i) {
    Kind& kind = kinds_[i];
    if (kind.asked_at == 0) continue;
    if (clock_() - kind.asked_at > kInterestNanos) {
      kind.asked_at = 0;
      kind.sample.reset();
      continue;
    }
    if (!kind.taking && clock_() - kind.taken_at >= interval_nanos_) TakeNow(static_cast<Ask>(i), lock);
    int64_t left = std::max<int64_t>(kind.taken_at + interval_nanos_ - clock_(), kNanosPerMilli);
    next = next < 0 ? left : std::min(next, left);
  }
  return next;
}

void Sampler::Loop() {
  for (;;) {
    int64_t next = TakeDue();
    std::unique_lock lock(mutex_);
    auto asked = [&] { return stopping_ || std::any_of(kinds_.begin(), kinds_.end(), [](const Kind& kind) { return kind.asked_at != 0; }); };
    if (next < 0) {
      changed_.wait(lock, asked);
    } else {
      changed_.wait_for(lock, std::chrono::nanoseconds(next), [&] { return stopping_; });
    }
    if (stopping_) return;
  }
}

}  // namespace caisson::cri

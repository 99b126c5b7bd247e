// SPDX-License-Identifier: Apache-2.0
//
// Time as plain nanosecond counts. Thread-safe, never fails.
#pragma once

#include <cstdint>
#include <string>

namespace caisson {

// CLOCK_REALTIME, nanoseconds since 1970 (clock_gettime(2)): for what users see and the CRI's timestamps.
int64_t NowNanos();
// CLOCK_MONOTONIC nanoseconds: for deadlines and durations.
int64_t MonotonicNanos();
// UTC, "2026-01-02T03:04:05.000000006Z": always nine digits, so that lines sort and the CRI log format is kept.
std::string FormatRfc3339Nano(int64_t nanos);

constexpr int64_t kNanosPerMilli = 1'000'000;
constexpr int64_t kNanosPerSecond = 1'000'000'000;

// A point in monotonic time by which something must be done. Copyable value.
class Deadline {
 public:
  static Deadline After(int64_t millis) { return Deadline(MonotonicNanos() + millis * kNanosPerMilli); }
  bool Passed() const { return MonotonicNanos() >= at_; }
  // Milliseconds left, rounded up, never negative: what poll(2) takes.
  int RemainingMillis() const {
    int64_t left = at_ - MonotonicNanos();
    return left <= 0 ? 0 : static_cast<int>((left + kNanosPerMilli - 1) / kNanosPerMilli);
  }

 private:
  explicit Deadline(int64_t at) : at_(at) {}
  int64_t at_;
};

}  // namespace caisson

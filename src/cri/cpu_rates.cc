// SPDX-License-Identifier: Apache-2.0
#include "cri/cpu_rates.h"

#include "base/clock.h"

namespace caisson::cri {
namespace {

// Two clients that ask one after the other must not get the rate of a moment.
constexpr int64_t kWindowNanos = kNanosPerSecond;
constexpr int64_t kShortestNanos = 100 * kNanosPerMilli;
constexpr int64_t kLateNanos = 10 * kNanosPerSecond;  // more than any call takes
constexpr int64_t kForgetNanos = 600 * kNanosPerSecond;

}  // namespace

std::optional<uint64_t> CpuRates::Sample(const std::string& id, int64_t at_nanos, uint64_t usage_nanos) {
  std::lock_guard lock(mutex_);
  auto found = earlier_.find(id);
  int64_t elapsed = found == earlier_.end() ? 0 : at_nanos - found->second.at_nanos;
  // What was long ago says nothing of lately; and the clock, which is the one that people set, may have been set back.
  if (found == earlier_.end() || elapsed > kForgetNanos || elapsed < -kLateNanos) {
    std::erase_if(earlier_, [&](const auto& entry) { return at_nanos - entry.second.at_nanos > kForgetNanos; });
    earlier_[id] = {at_nanos, usage_nanos, std::nullopt};
    return std::nullopt;
  }
  Earlier& earlier = found->second;
  // A sample may come late, behind a newer one of another thread.
  if (elapsed < 0 || usage_nanos < earlier.usage_nanos) return earlier.rate;
  if (elapsed < (earlier.rate ? kWindowNanos : kShortestNanos)) return earlier.rate;
  double cores = static_cast<double>(usage_nanos - earlier.usage_nanos) / static_cast<double>(elapsed);
  auto rate = static_cast<uint64_t>(cores * static_cast<double>(kNanosPerSecond));
  if (elapsed >= kWindowNanos) earlier = {at_nanos, usage_nanos, rate};
  return rate;
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// Whether containers can be checkpointed on this host and created from checkpoints: criu(8) is there and says it works
// (`criu check`, run by the companion), cgroup v2. Asked until it is yes, but not all the time. Thread-safe.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "cri/config.h"

namespace caisson::cri {

class CheckpointSupport {
 public:
  static constexpr int64_t kAgainNanos = 60 * kNanosPerSecond;

  explicit CheckpointSupport(const Config& config, std::function<int64_t()> clock = MonotonicNanos)
      : config_(config), clock_(std::move(clock)) {}
  // kFailedPrecondition with what is missing. A call that asks runs criu, for less than a second.
  Result<> Check();
  // The same for restoring, which the configuration has to allow too.
  Result<> CheckRestore();
  // For Status, as JSON: {"checkpoint", "restore"}, each "" or why not.
  std::string Describe();

 private:
  Result<> Probe();

  const Config& config_;
  const std::function<int64_t()> clock_;
  std::mutex mutex_;
  std::optional<Result<>> known_;
  int64_t asked_at_ = 0;
};

// What criu's output gives as a reason: its last errors, or all of it; one line, bounded. Pure.
std::string CriuReason(std::string_view output);

}  // namespace caisson::cri

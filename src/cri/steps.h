// SPDX-License-Identifier: Apache-2.0
//
// Steps: the named steps of one operation on a pod or container. Each is timed for the timeline, is a fault point
// "<operation>.<step>", is counted for the daemon's metrics, and has its name put before the message of its failure. Thread-safe: an operation may
// run steps on several threads at once.
#pragma once

#include <algorithm>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/id.h"
#include "base/strings.h"
#include "caisson/daemon/v1/record.pb.h"
#include "cri/context.h"
#include "cri/daemon_metrics.h"

namespace caisson::cri {

class Steps {
 public:
  Steps(const Context& context, std::string operation) : context_(context), operation_(std::move(operation)) {}

  // Runs `work`, which returns a Result<>. Register its undo before: it is tried also when the step failed half-way.
  template <class Work>
  Result<> Run(std::string_view name, Work work) {
    int64_t begin = NowNanos(), begin_mono = MonotonicNanos();
    Result<> result = work();
    if (result) result = context_.faults.At(fmt::format("{}.{}", operation_, name));
    daemon::v1::TimelineStep step;
    step.set_operation(operation_);
    step.set_name(std::string(name));
    step.set_begin_nanos(begin);
    const int64_t took = MonotonicNanos() - begin_mono;
    if (context_.metrics != nullptr) context_.metrics->CountStep(operation_, name, result.has_value(), took);
    step.set_end_nanos(begin + took);
    if (!result) step.set_error(result.error().message);
    std::lock_guard lock(mutex_);
    steps_.push_back(std::move(step));
    return result;
  }

  // A part of a step, as whoever did it has timed it; told "name begin end" in lines, CLOCK_REALTIME in nanoseconds. What is
  // not of that form is left out.
  void AddPhases(std::string_view lines) {
    constexpr size_t kMaxPhases = 32;
    size_t count = 0;
    for (std::string_view line : Split(lines, '\n')) {
      auto words = Split(line, ' ');
      if (words.size() != 3 || !IsSafeName(words[0]) || ++count > kMaxPhases) continue;
      auto begin = ParseInt64(words[1]), end = ParseInt64(words[2]);
      if (begin && end) AddPhase(words[0], *begin, *end);
    }
  }
  void AddPhase(std::string_view name, int64_t begin_nanos, int64_t end_nanos) {
    daemon::v1::TimelineStep step;
    step.set_operation(operation_);
    step.set_name(std::string(name));
    step.set_begin_nanos(begin_nanos);
    step.set_end_nanos(std::max(begin_nanos, end_nanos));
    if (context_.metrics != nullptr) context_.metrics->CountStep(operation_, name, true, step.end_nanos() - begin_nanos);
    std::lock_guard lock(mutex_);
    steps_.push_back(std::move(step));
  }

  // Appends what has run so far to a record's timeline, which is kept bounded: the oldest go first.
  void AppendTo(google::protobuf::RepeatedPtrField<daemon::v1::TimelineStep>* timeline) const {
    constexpr int kMaxSteps = 128;
    std::lock_guard lock(mutex_);
    for (const auto& step : steps_) *timeline->Add() = step;
    if (timeline->size() > kMaxSteps) timeline->DeleteSubrange(0, timeline->size() - kMaxSteps);
  }

 private:
  const Context& context_;
  const std::string operation_;
  mutable std::mutex mutex_;
  std::vector<daemon::v1::TimelineStep> steps_;
};

}  // namespace caisson::cri

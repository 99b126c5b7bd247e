// SPDX-License-Identifier: Apache-2.0
//
// A pod's timeline as text and as a picture. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace caisson::cli {

struct TimelineStep {
  std::string subject;    // "pod", or a container's name
  std::string operation;  // "run_pod_sandbox", …
  std::string name;
  int64_t begin_nanos = 0, end_nanos = 0;
  std::string error;
};

// One operation after the other in the order they began; each step with its begin relative to the operation, duration
// and a bar. Operations total from their first step's begin to their last step's end.
std::string FormatTimeline(std::vector<TimelineStep> steps);
// An SVG document: a bar per step, a colour per operation.
std::string DrawTimeline(std::vector<TimelineStep> steps, const std::string& title);

}  // namespace caisson::cli

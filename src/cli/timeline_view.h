// SPDX-License-Identifier: Apache-2.0
//
// A pod's timeline as text, as a picture and as a trace. Pure.
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
// Trace events as Chrome and Perfetto (ui.perfetto.dev) read them, JSON: a track per subject, operations with their steps in
// them, times as they were.
std::string TraceTimeline(std::vector<TimelineStep> steps, const std::string& title);

}  // namespace caisson::cli

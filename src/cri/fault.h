// SPDX-License-Identifier: Apache-2.0
//
// FaultPoints: named places where a test makes an operation fail (caissond's flag --fault NAME, repeatable; --list-faults
// lists the names). A step at which a fault is set does its work first and fails then, so that its own undo is tried
// too. In production the set is empty and a check is one comparison. Immutable, thread-safe.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson::cri {

// Every fault point there is: "<operation>.<step>".
inline constexpr std::string_view kFaultPoints[] = {
    "run_pod_sandbox.announce",
    "run_pod_sandbox.pod_dir",
    "run_pod_sandbox.pod_files",
    "run_pod_sandbox.netns",
    "run_pod_sandbox.cni_add",
    "run_pod_sandbox.shim_spawn",
    "run_pod_sandbox.sandbox_create",
    "run_pod_sandbox.sandbox_start",
    "run_pod_sandbox.record",
    "create_container.announce",
    "create_container.snapshot",
    "create_container.bundle",
    "create_container.task_create",
    "create_container.record",
    "start_container.task_start",
    "start_container.record",
    "pull_image.fetch",
    "template.make",
    "warm_pool.make",
};

class FaultPoints {
 public:
  FaultPoints() = default;
  explicit FaultPoints(std::vector<std::string> failing) : failing_(std::move(failing)) {}

  static bool Known(std::string_view name) {
    return std::find(std::begin(kFaultPoints), std::end(kFaultPoints), name) != std::end(kFaultPoints);
  }

  Result<> At(std::string_view name) const {
    if (failing_.empty() || std::find(failing_.begin(), failing_.end(), name) == failing_.end()) return {};
    return MakeError(Code::kInternal, "fault injected at {}", name);
  }

 private:
  std::vector<std::string> failing_;
};

}  // namespace caisson::cri

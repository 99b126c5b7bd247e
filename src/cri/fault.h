// SPDX-License-Identifier: Apache-2.0
//
// FaultPoints: named places where a test makes an operation fail (caissond's hidden flag --fault NAME, repeatable). In
// production the set is empty and a check is one comparison. Immutable, thread-safe.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson::cri {

class FaultPoints {
 public:
  FaultPoints() = default;
  explicit FaultPoints(std::vector<std::string> failing) : failing_(std::move(failing)) {}

  Result<> At(std::string_view name) const {
    if (failing_.empty() || std::find(failing_.begin(), failing_.end(), name) == failing_.end()) return {};
    return MakeError(Code::kInternal, "fault injected at {}", name);
  }

 private:
  const std::vector<std::string> failing_;
};

}  // namespace caisson::cri

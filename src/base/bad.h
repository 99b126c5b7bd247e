// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "base/result.h"

namespace caisson {

// kInvalidArgument: what somebody else has said cannot be so.
template <class... Args>
Error Bad(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(Code::kInvalidArgument, format, std::forward<Args>(args)...);
}

}  // namespace caisson

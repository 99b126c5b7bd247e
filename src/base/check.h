// SPDX-License-Identifier: Apache-2.0
//
// CHECK(condition) ends the process with file, line and text when an invariant of ours does not hold. Never for
// foreign input.
#pragma once

namespace caisson::internal {
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);
}

#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) ::caisson::internal::CheckFailed(__FILE_NAME__, __LINE__, #condition); \
  } while (false)

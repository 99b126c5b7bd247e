// SPDX-License-Identifier: Apache-2.0
//
// Where this process's program is. No state; any thread.
#pragma once

#include <string>

#include "base/result.h"

namespace caisson::sys {

// The absolute path of the program that this process runs (proc(5), /proc/PID/exe). Errors: there is no /proc, or the path is longer
// than PATH_MAX.
Result<std::string> OwnProgram();

}  // namespace caisson::sys

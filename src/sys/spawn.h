// SPDX-License-Identifier: Apache-2.0
//
// Starts a program that is to live on without its parent: in a session of its own (setsid(2)), with the null device as its stdio, all
// signals as they are by default. Thread-safe (posix_spawn(3)); the caller reaps it.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace caisson::sys {

struct SpawnRequest {
  std::string program;                   // path
  std::vector<std::string> argv;         // with its name as the first
  std::vector<std::string> environment;  // "NAME=value" each
  std::vector<int> fds;                  // become its descriptors 3, 4, …; still the caller's
};

// The process's id. Errors name the program; also when it cannot be executed.
Result<int> SpawnDetached(const SpawnRequest& request);

}  // namespace caisson::sys

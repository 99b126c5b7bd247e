// SPDX-License-Identifier: Apache-2.0
//
// Runs a foreign program to its end: with its own process group, no descriptor but its three, the environment that the caller
// names. Blocks its caller until the program has ended, its deadline has passed or it is to stop; then the whole group is
// killed. Thread-safe: posix_spawn(3) shares nothing with other threads of the daemon.
#pragma once

#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace caisson::sys {

struct Command {
  std::vector<std::string> argv;         // the first is the program's path
  std::vector<std::string> environment;  // "NAME=value" each
  std::string_view input;                // its stdin
  size_t max_out_bytes = 0;              // of stdout; a program that writes more is killed
  bool background = false;               // gets less of the processors and disks than others
  std::stop_token stop;
  std::string directory = {};            // that it begins in; empty: ours
};

struct CommandOutput {
  int exit_code = 0;
  int signal = 0;  // that ended it, or 0
  std::string out;
  std::string err;  // its beginning
};

// Errors: kDeadlineExceeded, kCancelled (stop), kResourceExhausted (too much output), or it could not be started.
Result<CommandOutput> RunCommand(const Command& command, const Deadline& deadline);

}  // namespace caisson::sys

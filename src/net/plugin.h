// SPDX-License-Identifier: Apache-2.0
//
// Runs one CNI plugin: a foreign program with its own process group, no descriptor but its three, and an environment
// that names only what the caller gave. Blocks its caller until the plugin has ended or its deadline has passed; then
// the whole group is killed. Thread-safe: posix_spawn(3) shares nothing with other threads of the daemon.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace caisson::net {

struct PluginOutput {
  int exit_code = 0;
  int signal = 0;  // that ended it, or 0
  std::string out;
  std::string err;  // its beginning
};

// The executable of `type` in the first of `dirs` that has one. Errors: kNotFound naming the folders.
Result<std::string> FindPlugin(std::string_view type, const std::vector<std::string>& dirs);

// `environment`: "NAME=value" each. Errors: kDeadlineExceeded, kResourceExhausted (stdout larger than
// limits::kCniOutputBytes; killed), or it could not be started.
Result<PluginOutput> RunPlugin(const std::string& path, const std::vector<std::string>& environment,
                               std::string_view input, const Deadline& deadline);

}  // namespace caisson::net

// SPDX-License-Identifier: Apache-2.0
//
// Finds and runs one CNI plugin (sys/command.h). Thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "sys/command.h"

namespace caisson::net {

using PluginOutput = sys::CommandOutput;

// The executable of `type` in the first of `dirs` that has one. Errors: kNotFound naming the folders.
Result<std::string> FindPlugin(std::string_view type, const std::vector<std::string>& dirs);

// `environment`: "NAME=value" each. Errors: kDeadlineExceeded, kResourceExhausted (stdout larger than
// limits::kCniOutputBytes; killed), or it could not be started.
Result<PluginOutput> RunPlugin(const std::string& path, const std::vector<std::string>& environment,
                               std::string_view input, const Deadline& deadline);

}  // namespace caisson::net

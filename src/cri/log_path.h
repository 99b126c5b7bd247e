// SPDX-License-Identifier: Apache-2.0
//
// Where a container's log goes. Pure but for MakeLogDir.
#pragma once

#include <string>

#include "base/result.h"

namespace caisson::cri {

// log_directory / log_path; empty if either is. kInvalidArgument if the directory is not absolute or either has a ".."
// part: a log must not leave the pod's directory (CVE-2026-53489).
Result<std::string> JoinLogPath(const std::string& log_directory, const std::string& log_path);
// Makes the folder of `path`. The kubelet has usually done it.
Result<> MakeLogDir(const std::string& path);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// What a container must not see or write (config-linux.md "Masked Paths", "Readonly Paths"), below `root_fd` before
// pivot_root(2). A path that is not there needs nothing. Child only.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace caisson::oci {

Result<> MakeReadonly(int root_fd, const std::vector<std::string>& paths);
Result<> MaskPaths(int root_fd, const std::vector<std::string>& paths);

}  // namespace caisson::oci

// SPDX-License-Identifier: Apache-2.0
//
// Who a container runs as: the CRI's and the image's words resolved against the image's /etc/passwd and /etc/group, read
// from the layers before anything is mounted.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cri/v1/api.pb.h"
#include "sys/user.h"

namespace caisson::cri {

// `lower_dirs`: the image's layers, topmost first, as overlay stacks them. Errors: as sys::ResolveUser; a group without
// a user is kInvalidArgument (CRI: run_as_group).
Result<sys::User> ResolveContainerUser(const runtime::v1::LinuxContainerSecurityContext& security, const std::string& image_user,
                                       const std::vector<std::string>& lower_dirs);

}  // namespace caisson::cri

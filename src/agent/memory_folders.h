// SPDX-License-Identifier: Apache-2.0
//
// Volumes in the guest's memory that the pod's containers share: file systems of their own size at kMemoryDir/<name>, and folders of them as
// mounts beside, so that a link which a container has put into one leads nobody out. They stay until the machine ends. For launchers; no state.
#pragma once

#include "base/result.h"
#include "caisson/guest/v1/guest.pb.h"

namespace caisson::agent {

inline constexpr char kMemoryDir[] = "/run/caisson/memory";

// Idempotent. Errors name the volume.
Result<> MountMemoryFolder(const guest::v1::ShareMemoryRequest& request);

}  // namespace caisson::agent

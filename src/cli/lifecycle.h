// SPDX-License-Identifier: Apache-2.0
//
// Stopping and removing, as stop, rm and run --rm need it.
#pragma once

#include <string>

#include "base/result.h"
#include "cli/client.h"

namespace caisson::cli {

Result<> StopPod(Client& client, const std::string& pod_id);
Result<> RemovePod(Client& client, const std::string& pod_id);
// `grace_seconds`: between the stop signal and SIGKILL.
Result<> StopContainer(Client& client, const std::string& container_id, int64_t grace_seconds);
Result<> RemoveContainer(Client& client, const std::string& container_id);

}  // namespace caisson::cli

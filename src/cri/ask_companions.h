// SPDX-License-Identifier: Apache-2.0
//
// One question to many companions at once: it takes as long as the slowest answer, and no longer than its deadline.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "cri/shim_client.h"

namespace caisson::cri {

using ShimsOfPods = std::map<std::string, std::shared_ptr<ShimClient>>;

// Calls caisson.pod.v1.Pod's `method` and returns the answers by pod, serialized; who fails or does not answer within
// `deadline_millis` is left out. Blocks its thread, which is not the shims' loop.
std::map<std::string, std::string> AskCompanions(const ShimsOfPods& shims, std::string_view method, const std::string& request, int64_t deadline_millis);

}  // namespace caisson::cri

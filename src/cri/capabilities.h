// SPDX-License-Identifier: Apache-2.0
//
// Capabilities by name (capabilities(7)) and what a container gets of them. Pure but for HostCapabilities.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cri/v1/api.pb.h"

namespace caisson::cri {

// Those in this process's bounding set, as "CAP_…": "all" can never mean more.
const std::vector<std::string>& HostCapabilities();
// All that there are, whether or not this process has them.
const std::vector<std::string>& KnownCapabilities();
// The usual fourteen of container runtimes.
const std::vector<std::string>& DefaultCapabilities();

struct ContainerCapabilities {
  std::vector<std::string> bounding, ambient;  // "CAP_…", in the kernel's order
};
// `defaults`: what a container has before the request adds and drops. ALL first, then the single ones; drop wins over
// add. Errors: kInvalidArgument naming an unknown capability.
Result<ContainerCapabilities> CapabilitiesOf(const runtime::v1::LinuxContainerSecurityContext& security,
                                             const std::vector<std::string>& defaults, const std::vector<std::string>& host);

}  // namespace caisson::cri

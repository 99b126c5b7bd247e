// SPDX-License-Identifier: Apache-2.0
//
// /dev of a container: nodes, links and the console, made below `root_fd` before pivot_root(2). Child only.
#pragma once

#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/plan.h"

namespace caisson::oci {

// Makes the nodes. In a user namespace, where mknod(2) is refused, the host's node of the same path is bound instead,
// if it is the same device. A node that is there already is accepted if it is the one meant.
Result<> MakeDevices(int root_fd, const std::vector<DeviceNode>& devices, const std::vector<LinkPlan>& links);

struct Pty {
  UniqueFd master, slave;
};
// A pty of the devpts at /dev/pts below `root_fd`; refuses a /dev/pts that is no devpts (CVE-2025-52565).
Result<Pty> OpenPty(int root_fd, uint16_t width, uint16_t height);
// A pty whose slave is also /dev/console.
Result<Pty> MakeConsole(int root_fd, uint16_t width, uint16_t height);

}  // namespace caisson::oci

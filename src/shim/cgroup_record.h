// SPDX-License-Identifier: Apache-2.0
//
// What a companion leaves behind for whoever must clean up after its sudden death: the cgroups of its containers, one a
// line in <bundle>/cgroups, written before each is made. Lines are only added; a line for a cgroup that is gone does no
// harm.
#pragma once

#include <string>

#include "base/result.h"

namespace caisson::shim {

// Appends a line. `systemd`: the driver that makes it.
Result<> RecordCgroup(const std::string& bundle, const std::string& cgroups_path, bool systemd);

// None is left.
void ForgetCgroups(const std::string& bundle);

// `containerd-shim-caisson-v2 cleanup`: kills all that is in the recorded cgroups and removes them, and what else a dead
// companion of this bundle left. Idempotent; nothing recorded is success. Never asks the companion, which must be dead.
Result<> CleanUp(const std::string& bundle);

}  // namespace caisson::shim

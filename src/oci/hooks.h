// SPDX-License-Identifier: Apache-2.0
//
// Hooks of the runtime-spec (config.md "POSIX-platform Hooks"): programs that get the container's state as JSON on
// stdin.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "oci/container.h"

namespace caisson::oci {

// Runs each hook in turn, in the caller's namespaces, with `state_json` on its stdin. A hook that fails, or does not
// end within its timeout (60 s if it has none; then it is killed), is an error that names it.
Result<> RunHooks(const std::vector<Hook>& hooks, const std::string& state_json);

// The state that hooks get (runtime.md "State"); `pid` as the host has it.
std::string HookState(const CreateOptions& container, const char* status, int pid);

}  // namespace caisson::oci

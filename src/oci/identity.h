// SPDX-License-Identifier: Apache-2.0
//
// What a process becomes before execve: limits, working directory, ids, capabilities, seccomp. Child only, in the
// container's root already.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/seccomp.h"
#include "oci/spec.h"

namespace caisson::oci {

// In the order that the kernel's rules ask for; see the .cc. `filter` may be null. Errors name the step.
Result<> BecomeProcess(const ProcessSpec& process, const SeccompFilter* filter);

// process.env with HOME from /etc/passwd (of the root the caller is in) where it is missing.
std::vector<std::string> CompleteEnvironment(const ProcessSpec& process);
// The home folder of `uid` in a passwd(5) text, or "/".
std::string HomeOf(uint32_t uid, std::string_view passwd);

// The program that args[0] means, by PATH of `env` where it has no slash (execvp(3)). Errors: kNotFound naming it.
Result<std::string> FindProgram(const std::string& name, const std::vector<std::string>& env);

}  // namespace caisson::oci

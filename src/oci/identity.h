// SPDX-License-Identifier: Apache-2.0
//
// What a process becomes before execve: attributes, limits, working directory, ids, capabilities, seccomp. Child only,
// in three steps around the change of the root file system.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/seccomp.h"
#include "oci/spec.h"

namespace caisson::oci {

// First, with the host's /proc in sight (a container's may be anything, CVE-2025-52881): oom_score_adj, LSM labels for
// the next execve, scheduling. Lowering oom_score_adj below what the runtime has needs CAP_SYS_RESOURCE; without it the
// runtime's stays.
Result<> SetAttributes(const ProcessSpec& process);

// Hard limits that only the host's root may raise, before a user namespace is entered; what may not be raised stays.
Result<> RaiseHardLimits(const std::vector<Rlimit>& limits);

// Then, in the container's root: replaces a username by ids from the root's /etc/passwd and /etc/group.
Result<> ResolveUser(int root_fd, ProcessSpec* process);
// Limits, working directory, ids; capabilities too where no later step needs them. A hard limit that may not be raised
// is set as high as it is. Refuses a working directory outside the root (CVE-2024-21626).
Result<> BecomeUser(const ProcessSpec& process, const SeccompFilter* filter);

// Last, with nothing to come but execve, since the filter may forbid all else. `filter` may be null.
Result<> FinishProcess(const ProcessSpec& process, const SeccompFilter* filter);

// process.env with HOME from /etc/passwd of the root where it is missing.
std::vector<std::string> CompleteEnvironment(int root_fd, const ProcessSpec& process);

// The program that args[0] means, by PATH of `env` where it has no slash (execvp(3)). Errors: kNotFound naming it.
Result<std::string> FindProgram(const std::string& name, const std::vector<std::string>& env);
// What execve(2) of `path` would find fault with at first sight: that it is not there, or no program for anyone.
Result<> CheckProgram(const std::string& path);

}  // namespace caisson::oci

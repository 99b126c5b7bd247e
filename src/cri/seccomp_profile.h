// SPDX-License-Identifier: Apache-2.0
//
// Seccomp profiles as operators write them, resolved to linux.seccomp of the runtime-spec for one container. Beyond the
// spec a profile may say "archMap" and, for each rule, "includes" and "excludes" with "caps", "arches" and "minKernel"
// (the widespread format of Docker's profiles); a plain linux.seccomp object comes out as it went in.
//
// The built-in profile, RuntimeDefault, is share/seccomp/default.json. Thread-safe, pure but for uname(2).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson::cri {

// What the conditions of a profile are compared with.
struct SeccompTarget {
  std::vector<std::string> caps;  // of the container's bounding set: "CAP_SYS_ADMIN"
  std::string machine;            // uname -m: "x86_64"
  int kernel_major = 0, kernel_minor = 0;
};
SeccompTarget SeccompTargetOfHost(std::vector<std::string> caps);

// linux.seccomp as compact JSON. Errors: kInvalidArgument naming what is wrong.
Result<std::string> ResolveSeccomp(std::string_view profile, const SeccompTarget& target);

// RuntimeDefault for a container with these capabilities on this host. Remembers the answer for each set of
// capabilities that matters to the profile.
Result<std::string> DefaultSeccomp(const std::vector<std::string>& caps);

}  // namespace caisson::cri

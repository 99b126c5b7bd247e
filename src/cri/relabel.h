// SPDX-License-Identifier: Apache-2.0
//
// Relabel: the CRI's Mount.selinux_relabel, on hosts with SELinux: a volume gets the label of the container's files, or
// the kernel's policy would refuse it. As root, without the cooperation of what is in the volume: no symbolic link is
// followed, nothing is opened but folders.
#pragma once

#include <string>

#include "base/result.h"

namespace caisson::cri {

// The label of files for a process whose level is `level` (selinux(8), "s0:c1,c2"); empty: s0, which all containers share.
std::string FileLabel(const std::string& level);
// Whether the running kernel enforces or permits by SELinux (selinuxfs is mounted).
bool HasSelinux();
// Sets security.selinux (xattr(7)) of `path` and all below to `label`. Filesystems without labels are left as they are.
// Errors: kInvalidArgument for a folder of the host that must keep its labels; a file that cannot be labelled, by name.
Result<> Relabel(const std::string& path, const std::string& label);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// Running our own program from a mount that nobody can write through. While a container's process is still ours, its
// /proc/PID/exe leads to the program's file on the host, and a container's root may open it for writing as soon as it
// is not running (CVE-2019-5736; an image whose program is a link to /proc/self/exe gets there without any race). So
// the program runs from a detached read-only bind mount of its folder: the same file and the same pages of memory, but
// every write open through that name fails with EROFS, and the mount, being in nobody's mount namespace, cannot be
// remounted. The folder is bound rather than the file, since a mount's root could be reached with mount_setattr(2).
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::sys {

// A descriptor (O_PATH) of the program at `path` in such a mount, for posix_spawn or execve of FdPath(). Needs
// CAP_SYS_ADMIN and Linux 5.12.
Result<UniqueFd> OpenSealedProgram(const std::string& path);

// True if this process runs from a read-only mount.
bool RunsSealed();

// First thing in main(): executes this program again from a sealed mount, unless it runs so already. Returns only if it
// does, or with an error.
Result<> RunSealed(char** argv);

}  // namespace caisson::sys

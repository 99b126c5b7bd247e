// SPDX-License-Identifier: Apache-2.0
//
// What confines the process that serves files to a guest (serve.h), done by itself before it hears the guest's first word. It has
// been started with namespaces of its own (PID, mount, network, IPC, UTS) and nothing open but its two sockets.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::files {

// In this order: an empty root; as many descriptors as the host allows, no core files; of the capabilities those that a server
// of files of many users needs (CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETUID and SETGID for the file system's user); no_new_privs; the end with
// its starter; a system call filter, which allows what the server does and makes all else fail with EPERM: no socket, no program,
// no mount, no other process. Returns /proc/self/fd. On failure the process must end.
Result<UniqueFd> Confine();
// Again, since a change of user makes the kernel forget it (prctl(2)): this process ends with the one that has started it.
void EndWithStarter();

}  // namespace caisson::files

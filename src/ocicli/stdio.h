// SPDX-License-Identifier: Apache-2.0
//
// Standard streams, terminals and further descriptors that a command hands to a process of a container, and what a command
// does that stays in the foreground.
#pragma once

#include <string>

#include "base/result.h"
#include "oci/container.h"
#include "ocicli/flags.h"

namespace caisson::ocicli {

// The command's own 0, 1 and 2; those that are closed become the null device.
Result<oci::Stdio> OwnStdio();

// How many descriptors from 3 on go to the process: --preserve-fds and those of socket activation (sd_listen_fds(3)), for
// which `env` gets LISTEN_FDS and LISTEN_PID. Errors: one of them is not open.
Result<unsigned> PreservedDescriptors(const Flags& flags, std::vector<std::string>* env);

// Whether the flags fit: a terminal of a process that outlives the command needs --console-socket, any other takes none.
Result<> CheckConsole(const Flags& flags, bool terminal, bool detached);
// Sends the pty's master to who listens on the unix socket `path`, as other runtimes do.
Result<> SendConsole(const std::string& path, int master);

// A process in the foreground begins with the size of our own terminal, if its configuration says none.
void TakeTerminalSize(oci::ProcessSpec* process);

// Signals that are meant for the process in the foreground wait from here on.
void HoldSignals();
// Until `process`, a child of ours, ends: hands on signals and, where it has a terminal, what is typed and shown. Its exit
// code, 128 + signal if one ended it.
Result<int> WaitInForeground(const oci::Process& process);

}  // namespace caisson::ocicli

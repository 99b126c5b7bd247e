// SPDX-License-Identifier: Apache-2.0
//
// Unix stream sockets named by a path (unix(7)), never abstract ones: who may connect is what the folder's mode says.
// All descriptors are O_CLOEXEC and non-blocking. Paths longer than sun_path go through their folder's descriptor. No
// state; any thread.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::sys {

// Listens on a new socket file `path` of mode `mode`. Errors: kAlreadyExists when something is there, in use or not.
Result<UniqueFd> ListenUnix(const std::string& path, mode_t mode = 0600, int backlog = 64);
// The same after removing a socket file that nobody listens on any more. Anything else at `path` is kAlreadyExists.
Result<UniqueFd> ListenUnixAnew(const std::string& path, mode_t mode = 0600, int backlog = 64);
// Connects to `path`: at once or not at all.
Result<UniqueFd> ConnectUnix(const std::string& path);

// Who connected, or listened, at the other end (SO_PEERCRED).
struct PeerCredentials {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};
Result<PeerCredentials> PeerOf(int socket);

}  // namespace caisson::sys

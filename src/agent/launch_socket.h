// SPDX-License-Identifier: Apache-2.0
//
// How the guest's processes speak: PID 1 with the messenger, over a SOCK_SEQPACKET pair that lives as long as both
// (PID 1 is given connections for launchers, and where those are to be born, and gives notices of ended processes), and the messenger with a launcher, over a
// SOCK_STREAM pair, one message each way. No state; blocking calls have deadlines.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "task/ended_processes.h"

namespace caisson::agent {

struct SocketPair {
  UniqueFd first, second;
};
// `type`: SOCK_STREAM or SOCK_SEQPACKET.
Result<SocketPair> MakeSocketPair(int type);

struct LaunchMessage {
  std::string text;
  std::vector<UniqueFd> fds;
  int sender = 0;  // its pid in our namespace, of a socket that is asked to say (AskForSenders)
};
// unix(7), SO_PASSCRED.
Result<> AskForSenders(int socket);

// One message of a stream. Errors: kDeadlineExceeded, kUnavailable where the other side has gone, kDataLoss for what is none,
// kResourceExhausted beyond sys::kMessageFds or limits::kLaunchMessageBytes.
Result<> SendLaunch(int socket, std::string_view text, const std::vector<int>& fds, const Deadline& deadline);
Result<LaunchMessage> ReceiveLaunch(int socket, const Deadline& deadline);

// The pair of PID 1 and messenger.
// Where a launcher is born.
struct Birthplace {
  UniqueFd cgroup;         // a folder of cgroup2
  UniqueFd pid_namespace;  // of a process in it; not valid: PID 1's own
};
// Hands PID 1 a connection, for a launcher to serve, which is born in `place`, if any.
Result<> AskForLauncher(int socket, int connection, const Birthplace* place, const Deadline& deadline);
struct Asked {
  UniqueFd connection;  // not valid: there is none now
  Birthplace place;     // nothing valid: anywhere
};
// kUnavailable: the messenger has gone; kDataLoss: it says what it must not.
Result<Asked> TakeConnection(int socket);
// False: not now.
Result<bool> SendNotice(int socket, const task::EndedProcess& notice);
// False: there is none now, or never again.
bool TakeNotice(int socket, task::EndedProcess* notice);

}  // namespace caisson::agent

// SPDX-License-Identifier: Apache-2.0
//
// Control: what a new process of a container and its launcher say to each other before execve, over a SOCK_SEQPACKET
// pair. The child's end is O_CLOEXEC: its end of file tells that execve has succeeded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::oci {

enum class Signal : char {
  kNeedsMaps = 'n',  // child: has made a user namespace
  kMapped = 'm',     // parent: the id maps are written
  kChild = 'c',      // child: has cloned the container's init; its pidfd is with it
  kConsole = 't',    // child: the pty's master is with it
  kHooks = 'h',      // child: its root file system is there and not yet entered; it waits
  kHooksDone = 'd',  // parent: go on
  kReady = 'r',      // child: all but execve is done; the ids it has become follow
  kStart = 's',      // parent: execve now; at a gate the child answers with the same word
  kRelease = 'g',    // parent: wait at the gate from now on, not for me
  kFailed = 'f',     // child: an Error follows
  kEnd = 'e',        // the other side is gone
};

// The ids of the process: uid, gid and the supplementary ones.
using Ids = std::vector<uint32_t>;

struct ControlPair {
  UniqueFd parent, child;
};
Result<ControlPair> MakeControlPair();

// Sends one word, with a descriptor if `fd` is not -1.
Result<> SendSignal(int socket, Signal signal, int fd = -1);
Result<> SendReady(int socket, const Ids& ids);
// By write(2) alone, the last call that a seccomp filter forbids.
Result<> SendFailure(int socket, const Error& error);

struct Received {
  Signal signal = Signal::kEnd;
  UniqueFd fd;
  Ids ids;
};
// Waits for the next word. A failure that the child sent is returned as that Error; nothing before the deadline is
// kDeadlineExceeded.
Result<Received> Receive(int socket, const Deadline& deadline);
// True if the other side is gone.
bool IsGone(int socket);

// Starts the program of the container `id` whose init waits at the gate that `gate` is connected to (CreateOptions). Returns when it runs, or
// has ended meanwhile. Errors: kFailedPrecondition if another was there first, or the init has ended; the execve failure.
Result<> StartAtGate(const std::string& id, UniqueFd gate, int64_t deadline_millis);
// Until the program of a process that was exec'd into container `id` runs (RunExec, BecomeExec); its pty's master, if it has one.
Result<UniqueFd> AwaitExec(const std::string& id, int socket, int64_t deadline_millis);
// After kStart: until the program of the init runs.
Result<> AwaitExecve(const std::string& id, int socket, int64_t deadline_millis);

}  // namespace caisson::oci

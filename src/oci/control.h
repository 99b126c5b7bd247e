// SPDX-License-Identifier: Apache-2.0
//
// Control: what a new process of a container and its launcher say to each other before execve, over a SOCK_SEQPACKET pair.
// The child's end is O_CLOEXEC: its end of file tells that execve has succeeded.
#pragma once

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::oci {

enum class Signal : char {
  kMapped = 'm',   // parent: the id maps are written
  kReady = 'r',    // child: all but execve is done
  kStart = 's',    // parent: execve now
  kFailed = 'f',   // child: an Error follows
  kEnd = 'e',      // the other side is gone
};

struct ControlPair {
  UniqueFd parent, child;
};
Result<ControlPair> MakeControlPair();

// Sends one word, with a descriptor if `fd` is not -1.
Result<> SendSignal(int socket, Signal signal, int fd = -1);
Result<> SendFailure(int socket, const Error& error);

struct Received {
  Signal signal = Signal::kEnd;
  UniqueFd fd;
};
// Waits for the next word. A failure that the child sent is returned as that Error; nothing before the deadline is
// kDeadlineExceeded.
Result<Received> Receive(int socket, const Deadline& deadline);

}  // namespace caisson::oci

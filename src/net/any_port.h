// SPDX-License-Identifier: Apache-2.0
//
// A listener for every TCP port of a network namespace's loopback at once, whoever listens there otherwise: a BPF program picks it as the
// socket that a connection is for (BPF_PROG_TYPE_SK_LOOKUP, Linux 5.9; Documentation/bpf/prog_sk_lookup.rst). For pods whose programs are
// not in their network namespace, so that who dials localhost there finds them.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::net {

struct AnyPort {
  UniqueFd listener;  // non-blocking
  UniqueFd link;      // the program holds while it is open
};

// In the network namespace of the calling thread. Only addresses of the loopback are led to it: 127.0.0.0/8 and, where there is IPv6, ::1.
// Errors: bpf(2)'s (EINVAL: the kernel is older, or has no BPF for sockets), socket(2)'s.
Result<AnyPort> ListenOnAnyPort();

struct AnyConnection {
  UniqueFd socket;    // non-blocking
  uint16_t port = 0;  // that was dialled
};
// The next connection. Errors: kUnavailable when there is none yet; accept(2)'s.
Result<AnyConnection> AcceptAny(const AnyPort& any);

}  // namespace caisson::net

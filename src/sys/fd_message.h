// SPDX-License-Identifier: Apache-2.0
//
// Messages that carry descriptors from process to process (unix(7), SCM_RIGHTS). Errors are errno's, for callers to say what they
// were about. No locks; any thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"

namespace caisson::sys {

// With one message.
inline constexpr size_t kMessageFds = 16;

// sendmsg(2) with MSG_NOSIGNAL and `flags`: the bytes that went, or -1. `fds`, at most kMessageFds, have gone with the first of them, and
// stay the caller's. Allocates nothing.
ssize_t SendFds(int socket, std::string_view bytes, std::span<const int> fds, int flags = 0);

// recvmsg(2) with MSG_CMSG_CLOEXEC and `flags`, not interrupted: the bytes that came, 0 at the end, or -1. What descriptors came with them are
// added to `fds`; of a socket with SO_PASSCRED the sender's pid is put into `sender`. EMSGSIZE: it is cut off, or has more descriptors.
ssize_t ReceiveFds(int socket, void* to, size_t size, std::vector<UniqueFd>* fds, int flags = 0, int* sender = nullptr);

}  // namespace caisson::sys

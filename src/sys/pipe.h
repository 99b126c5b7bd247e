// SPDX-License-Identifier: Apache-2.0
//
// Sizes of pipes (pipe(7)). No state; any thread.
#pragma once

#include <fcntl.h>

#include <cstddef>

namespace caisson::sys {

inline constexpr size_t kDefaultPipeBytes = 64 << 10;  // of a new one
inline constexpr size_t kBusyPipeBytes = 256 << 10;

// Of a busy one, either end: fewer and longer turns from then on. Refused for what is no pipe and above the user's limit
// (F_SETPIPE_SZ in fcntl(2)): it then stays as it is.
inline void EnlargePipe(int fd) { fcntl(fd, F_SETPIPE_SZ, static_cast<int>(kBusyPipeBytes)); }

}  // namespace caisson::sys

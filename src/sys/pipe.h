// SPDX-License-Identifier: Apache-2.0
//
// Pipes and their sizes (pipe(7)). No state; any thread.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::sys {

inline constexpr size_t kDefaultPipeBytes = 64 << 10;  // of a new one
inline constexpr size_t kBusyPipeBytes = 256 << 10;

struct PipeEnds {
  UniqueFd reader, writer;
};

// Both ends close on exec. `what` is for the error: "make a pipe for stdio".
inline Result<PipeEnds> OpenPipe(const char* what) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("make {}", what);
  return PipeEnds{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// Of a busy one, either end: fewer and longer turns from then on. Refused for what is no pipe and above the user's limit
// (F_SETPIPE_SZ in fcntl(2)): it then stays as it is.
inline void EnlargePipe(int fd) { fcntl(fd, F_SETPIPE_SZ, static_cast<int>(kBusyPipeBytes)); }

}  // namespace caisson::sys

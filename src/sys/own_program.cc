// SPDX-License-Identifier: Apache-2.0
#include "sys/own_program.h"

#include <unistd.h>

#include <climits>

namespace caisson::sys {

Result<std::string> OwnProgram() {
  char path[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0 || length == sizeof path) return ErrnoError("find our own program");
  return std::string(path, static_cast<size_t>(length));
}

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
#include "sys/new_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "base/unique_fd.h"

namespace caisson::sys {

Result<> WriteNewFile(const std::string& path, std::string_view text) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return ErrnoError("create '{}'", path);
  while (!text.empty()) {
    ssize_t n = write(fd.get(), text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError("write '{}'", path);
    text.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

}  // namespace caisson::sys

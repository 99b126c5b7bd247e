// SPDX-License-Identifier: Apache-2.0
#include "sys/new_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/unique_fd.h"

namespace caisson::sys {

Result<> WriteNewFile(const std::string& path, std::string_view text, unsigned mode) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd) return ErrnoError("create '{}'", path);
  while (!text.empty()) {
    ssize_t n = write(fd.get(), text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      Error error = ErrnoError("write '{}'", path);
      unlink(path.c_str());
      return error;
    }
    text.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<> ReplaceFile(const std::string& path, std::string_view text, unsigned mode) {
  size_t leaf = path.rfind('/') + 1;  // 0: there is none
  std::string other = fmt::format("{}.{}.{}", path.substr(0, leaf), path.substr(leaf), getpid());
  unlink(other.c_str());  // of one with our number that was killed
  TRY(WriteNewFile(other, text, mode));
  if (rename(other.c_str(), path.c_str()) == 0) return {};
  Error error = ErrnoError("rename '{}' to '{}'", other, path);
  unlink(other.c_str());
  return error;
}

}  // namespace caisson::sys

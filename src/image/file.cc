// SPDX-License-Identifier: Apache-2.0
#include "image/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "sys/path.h"

namespace caisson::image {

Result<std::string> ReadSmallFile(const std::string& path, size_t max_bytes) {
  // Not blocking: a FIFO under this name must not hang us.
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return ErrnoError("open '{}'", path);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return ErrnoError("stat '{}'", path);
  if (!S_ISREG(info.st_mode)) return MakeError(Code::kInvalidArgument, "'{}' is no regular file", path);
  std::string text;
  char buffer[16 << 10];
  for (;;) {
    ssize_t n = read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError("read '{}'", path);
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > max_bytes) {
      return MakeError(Code::kInvalidArgument, "'{}' is larger than the limit of {} bytes", path, max_bytes);
    }
  }
}

Result<UniqueFd> ReopenRegular(int path_fd, const std::string& name) {
  struct stat info {};
  if (fstat(path_fd, &info) != 0) return ErrnoError("stat '{}'", name.substr(0, 256));
  if (!S_ISREG(info.st_mode)) return MakeError(Code::kInvalidArgument, "'{}' is no regular file", name.substr(0, 256));
  UniqueFd file(open(sys::FdPath(path_fd).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return ErrnoError("open '{}'", name.substr(0, 256));
  return file;
}

Result<UniqueFd> OpenRegularInRoot(int root_fd, const std::string& path) {
  UniqueFd found = TRY(sys::OpenInRoot(root_fd, path, O_PATH));
  return ReopenRegular(found.get(), path);
}

}  // namespace caisson::image

// SPDX-License-Identifier: Apache-2.0
#include "sys/path.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/strings.h"

namespace caisson::sys {
namespace {

Result<UniqueFd> OpenAt2(int root_fd, const std::string& path, int flags, mode_t mode, uint64_t resolve) {
  if (path.size() >= limits::kPathBytes || path.find('\0') != std::string::npos) {
    return MakeError(Code::kInvalidArgument, "path '{}…' is too long or has a NUL", path.substr(0, 64));
  }
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  // openat2 refuses a mode where nothing is made.
  if (flags & O_CREAT) how.mode = mode;
  how.resolve = resolve;
  // EAGAIN: something was renamed underneath while ".." was resolved; the kernel asks to try again (openat2(2)).
  for (int tries = 0; tries < 64; ++tries) {
    long fd = syscall(SYS_openat2, root_fd, path.c_str(), &how, sizeof how);
    if (fd >= 0) return UniqueFd(static_cast<int>(fd));
    if (errno != EAGAIN && errno != EINTR) break;
  }
  return ErrnoError("open '{}' in the root", path);
}

constexpr uint64_t kInRoot = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;

constexpr int kMaxLinks = 40;  // as the kernel (path_resolution(7))

// Where the link `leaf` of `folder_fd` leads, as a path in the root; `folder` is the folder's own.
Result<std::string> LinkTarget(int folder_fd, const std::string& folder, const std::string& leaf) {
  char target[limits::kPathBytes];
  ssize_t length = readlinkat(folder_fd, leaf.c_str(), target, sizeof target);
  if (length <= 0 || length == static_cast<ssize_t>(sizeof target))
    return ErrnoError("follow '{}/{}' in the root", folder, leaf);
  std::string text(target, static_cast<size_t>(length));
  return text[0] == '/' ? text : folder + "/" + text;
}

// Makes folders one by one; each is resolved anew in the root, so that links are followed as the container would. What
// a dangling link names is made as well: images have them (/etc/resolv.conf to ../run/…).
Result<UniqueFd> MakeDirs(int root_fd, const std::string& path, mode_t mode, int links) {
  if (links > kMaxLinks) return SysError(ELOOP, fmt::format("make folder '{}' in the root", path));
  std::string done = "/";
  UniqueFd at = TRY(OpenAt2(root_fd, "/", O_PATH | O_DIRECTORY, 0, kInRoot));
  for (std::string_view part : Split(path, '/')) {
    if (part.empty() || part == ".") continue;
    std::string above = done, leaf(part);
    done += (done == "/" ? "" : "/") + leaf;
    auto next = OpenAt2(root_fd, done, O_PATH | O_DIRECTORY, 0, kInRoot);
    if (!next && next.error().sys_errno == ENOENT) {
      if (leaf == "..") return std::move(next.error());
      if (mkdirat(at.get(), leaf.c_str(), mode) == 0) {
        next = OpenAt2(root_fd, done, O_PATH | O_DIRECTORY, 0, kInRoot);
      } else if (errno == EEXIST) {
        next = MakeDirs(root_fd, TRY(LinkTarget(at.get(), above, leaf)), mode, links + 1);
      } else {
        return ErrnoError("make folder '{}' in the root", done);
      }
    }
    at = TRY(std::move(next));
  }
  return at;
}

Result<UniqueFd> MakeFile(int root_fd, const std::string& path, mode_t mode, int links) {
  auto there = OpenAt2(root_fd, path, O_PATH, 0, kInRoot);
  if (there || there.error().sys_errno != ENOENT) return there;
  if (links > kMaxLinks) return SysError(ELOOP, fmt::format("make file '{}' in the root", path));
  auto [folder, leaf] = SplitPath(path);
  UniqueFd folder_fd = TRY(MakeDirs(root_fd, folder, 0755, links));
  auto made = OpenAt2(root_fd, path, O_WRONLY | O_CREAT | O_NOCTTY | O_NONBLOCK, mode, kInRoot);
  if (!made && made.error().sys_errno == ENOENT) {
    return MakeFile(root_fd, TRY(LinkTarget(folder_fd.get(), folder, leaf)), mode, links + 1);
  }
  TRY(std::move(made));
  return OpenAt2(root_fd, path, O_PATH, 0, kInRoot);
}

}  // namespace

Result<UniqueFd> OpenInRoot(int root_fd, const std::string& path, int flags, mode_t mode) {
  return OpenAt2(root_fd, path, flags, mode, kInRoot);
}

Result<UniqueFd> OpenInRootNoLinks(int root_fd, const std::string& path, int flags) {
  return OpenAt2(root_fd, path, flags, 0, kInRoot | RESOLVE_NO_SYMLINKS);
}

Result<UniqueFd> MakeDirInRoot(int root_fd, const std::string& path, mode_t mode) {
  auto there = OpenAt2(root_fd, path, O_PATH | O_DIRECTORY, 0, kInRoot);
  if (there || there.error().sys_errno != ENOENT) return there;
  return MakeDirs(root_fd, path, mode, 0);
}

Result<UniqueFd> MakeFileInRoot(int root_fd, const std::string& path, mode_t mode) {
  return MakeFile(root_fd, path, mode, 0);
}

std::string FdPath(int fd) { return fmt::format("/proc/self/fd/{}", fd); }

std::pair<std::string, std::string> SplitPath(const std::string& path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {".", path};
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

Result<std::string> ReadAll(int fd, size_t max_bytes) {
  std::string content;
  char buffer[4096];
  for (;;) {
    ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoError("read");
    if (got == 0) return content;
    if (content.size() + static_cast<size_t>(got) > max_bytes) {
      return MakeError(Code::kResourceExhausted, "larger than the limit of {} bytes", max_bytes);
    }
    content.append(buffer, static_cast<size_t>(got));
  }
}

Result<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd) return ErrnoError("open '{}'", path);
  auto content = ReadAll(fd.get(), max_bytes);
  if (!content) return std::move(content.error()).Within("file '" + path + "'");
  return content;
}

}  // namespace caisson::sys

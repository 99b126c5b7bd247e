// SPDX-License-Identifier: Apache-2.0
#include "oci/copy_up.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace caisson::oci {
namespace {

constexpr int kDepth = 64;
constexpr size_t kCopyBytes = size_t{1} << 20;

Result<> CopyTree(int from, int to, int depth);

Result<> CopyFile(int from_folder, int to_folder, const char* name, const struct stat& info) {
  UniqueFd from(openat(from_folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!from) return ErrnoError("open '{}'", name);
  UniqueFd to(openat(to_folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!to) return ErrnoError("make '{}'", name);
  for (;;) {
    ssize_t sent = sendfile(to.get(), from.get(), nullptr, kCopyBytes);
    if (sent == 0) break;
    if (sent < 0 && errno != EINTR) return ErrnoError("copy '{}'", name);
  }
  if (fchown(to.get(), info.st_uid, info.st_gid) != 0 || fchmod(to.get(), info.st_mode & 07777) != 0)
    return ErrnoError("set owner and mode of '{}'", name);
  return {};
}

Result<> CopyLink(int from_folder, int to_folder, const char* name, const struct stat& info) {
  char target[PATH_MAX];
  ssize_t length = readlinkat(from_folder, name, target, sizeof target - 1);
  if (length < 0) return ErrnoError("read link '{}'", name);
  target[length] = '\0';
  if (symlinkat(target, to_folder, name) != 0 || fchownat(to_folder, name, info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW) != 0)
    return ErrnoError("make link '{}'", name);
  return {};
}

Result<> CopyFolder(int from_folder, int to_folder, const char* name, const struct stat& info, int depth) {
  UniqueFd from(openat(from_folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!from) return ErrnoError("open '{}'", name);
  if (mkdirat(to_folder, name, 0700) != 0) return ErrnoError("make folder '{}'", name);
  UniqueFd to(openat(to_folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!to) return ErrnoError("open '{}'", name);
  TRY(CopyTree(from.get(), to.get(), depth + 1));
  if (fchown(to.get(), info.st_uid, info.st_gid) != 0 || fchmod(to.get(), info.st_mode & 07777) != 0)
    return ErrnoError("set owner and mode of '{}'", name);
  return {};
}

Result<> CopyTree(int from, int to, int depth) {
  if (depth > kDepth) return MakeError(Code::kResourceExhausted, "folders are nested deeper than {}", kDepth);
  int again = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* opened = again < 0 ? nullptr : fdopendir(again);
  if (opened == nullptr) return ErrnoError("list a folder");
  std::unique_ptr<DIR, int (*)(DIR*)> stream(opened, closedir);
  while (dirent* entry = readdir(opened)) {
    const char* name = entry->d_name;
    if (std::string_view(name) == "." || std::string_view(name) == "..") continue;
    struct stat info {};
    if (fstatat(from, name, &info, AT_SYMLINK_NOFOLLOW) != 0) return ErrnoError("look at '{}'", name);
    if (S_ISDIR(info.st_mode)) TRY(CopyFolder(from, to, name, info, depth));
    if (S_ISREG(info.st_mode)) TRY(CopyFile(from, to, name, info));
    if (S_ISLNK(info.st_mode)) TRY(CopyLink(from, to, name, info));
  }
  return {};
}

}  // namespace

Result<> CopyUp(int from, int to) { return CopyTree(from, to, 0); }

}  // namespace caisson::oci

// SPDX-License-Identifier: Apache-2.0
#include "cri/relabel.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/unique_fd.h"

namespace caisson::cri {
namespace {

constexpr char kName[] = "security.selinux";
constexpr int kMaxDepth = 200;

// Relabelling one of these would keep the host itself from working.
constexpr const char* kRefused[] = {"/",     "/bin",  "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt",
                                    "/proc", "/root", "/run",  "/sbin", "/srv", "/sys",  "/tmp", "/usr",   "/var"};

Result<> SetLabel(const std::string& path, const std::string& label, const std::string& shown) {
  if (lsetxattr(path.c_str(), kName, label.c_str(), label.size() + 1, 0) == 0) return {};
  if (errno == EOPNOTSUPP || errno == ENOENT) return {};  // no labels there; or gone meanwhile
  return ErrnoError("label '{}' as '{}'", shown, label);
}

// Names below a folder's descriptor, so that nobody can swap a folder for a link under us.
Result<> LabelBelow(UniqueFd folder, const std::string& label, const std::string& shown, int depth) {
  if (depth > kMaxDepth) return MakeError(Code::kResourceExhausted, "label '{}': more than {} folders deep", shown, kMaxDepth);
  int fd = folder.get();
  std::unique_ptr<DIR, int (*)(DIR*)> dir(fdopendir(folder.Release()), closedir);
  if (!dir) return ErrnoError("read '{}'", shown);
  while (dirent* entry = readdir(dir.get())) {
    if (std::strcmp(entry->d_name, ".") == 0 || std::strcmp(entry->d_name, "..") == 0) continue;
    std::string below = shown + "/" + entry->d_name;
    TRY(SetLabel(fmt::format("/proc/self/fd/{}/{}", fd, entry->d_name), label, below));
    UniqueFd next(openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
    if (next) TRY(LabelBelow(std::move(next), label, below, depth + 1));
  }
  return {};
}

}  // namespace

std::string FileLabel(const std::string& level) {
  return "system_u:object_r:container_file_t:" + (level.empty() ? std::string("s0") : level);
}

bool HasSelinux() { return access("/sys/fs/selinux/enforce", F_OK) == 0; }

Result<> Relabel(const std::string& path, const std::string& label) {
  std::error_code failed;
  std::string real = std::filesystem::canonical(path, failed);
  if (failed) return SysError(failed.value(), fmt::format("label '{}'", path));
  if (std::find(std::begin(kRefused), std::end(kRefused), real) != std::end(kRefused)) {
    return MakeError(Code::kInvalidArgument, "'{}' is the host's own and is not relabelled for a container", path);
  }
  TRY(SetLabel(real, label, path));
  UniqueFd folder(open(real.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!folder) return {};  // a file
  return LabelBelow(std::move(folder), label, path, 0);
}

}  // namespace caisson::cri

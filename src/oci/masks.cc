// SPDX-License-Identifier: Apache-2.0
#include "oci/masks.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "oci/bind.h"
#include "sys/path.h"

namespace caisson::oci {
namespace {

// Not valid where `path` leads nowhere.
Result<UniqueFd> OpenIfThere(int root_fd, const std::string& path) {
  auto at = sys::OpenInRoot(root_fd, path, O_PATH);
  if (!at && (at.error().sys_errno == ENOENT || at.error().sys_errno == ENOTDIR)) return UniqueFd();
  return at;
}

MountPlan ReadOnly() {
  MountPlan plan;
  plan.flags = MS_RDONLY;
  return plan;
}

// The host's own /dev/null, not the image's, which may be anything (CVE-2025-31133).
Result<UniqueFd> OpenNull() {
  UniqueFd null(open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat info {};
  if (!null || fstat(null.get(), &info) != 0 || !S_ISCHR(info.st_mode) || info.st_rdev != makedev(1, 3)) {
    return MakeError(Code::kFailedPrecondition, "the host's /dev/null is not the null device");
  }
  return null;
}

// One empty folder for all: making a tmpfs is dearer than cloning its mount.
Result<UniqueFd> MakeEmptyFolder() {
  UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC)));
  if (!context) return ErrnoError("open a tmpfs");
  for (auto [key, value] : {std::pair("mode", "0755"), {"nr_blocks", "1"}, {"nr_inodes", "1"}}) {
    if (syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, key, value, 0) != 0)
      return ErrnoError("set tmpfs option '{}'", key);
  }
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_FLAG, "ro", nullptr, 0) != 0 ||
      syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return ErrnoError("make a tmpfs");
  }
  unsigned attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  UniqueFd mounted(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, attributes)));
  if (!mounted) return ErrnoError("mount a tmpfs");
  return mounted;
}

// The first folder takes the mount itself; a detached mount cannot be cloned by kernels before 6.15, an attached one
// can.
Result<> MaskFolder(int target_fd, UniqueFd* empty) {
  if (!*empty) {
    *empty = TRY(MakeEmptyFolder());
    return AttachTree(empty->get(), target_fd, MountPlan{});
  }
  UniqueFd tree = TRY(CloneTree(empty->get(), "", false));
  return AttachTree(tree.get(), target_fd, MountPlan{});
}

}  // namespace

Result<> MakeReadonly(int root_fd, const std::vector<std::string>& paths) {
  for (const auto& path : paths) {
    UniqueFd at = TRY(OpenIfThere(root_fd, path));
    if (!at) continue;
    UniqueFd tree = TRY(CloneTree(at.get(), "", true));
    auto done = AttachTree(tree.get(), at.get(), ReadOnly());
    if (!done) return std::move(done.error()).Within("read-only path '" + path + "'");
  }
  return {};
}

Result<> MaskPaths(int root_fd, const std::vector<std::string>& paths) {
  UniqueFd null, empty;
  for (const auto& path : paths) {
    UniqueFd at = TRY(OpenIfThere(root_fd, path));
    if (!at) continue;
    struct stat info {};
    if (fstat(at.get(), &info) != 0) return ErrnoError("masked path '{}'", path);
    Result<> done;
    if (S_ISDIR(info.st_mode)) {
      done = MaskFolder(at.get(), &empty);
    } else {
      if (!null) null = TRY(OpenNull());
      UniqueFd tree = TRY(CloneTree(null.get(), "", false));
      done = AttachTree(tree.get(), at.get(), ReadOnly());
    }
    if (!done) return std::move(done.error()).Within("mask '" + path + "'");
  }
  return {};
}

}  // namespace caisson::oci

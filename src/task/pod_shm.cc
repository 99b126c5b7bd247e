// SPDX-License-Identifier: Apache-2.0
#include "task/pod_shm.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace caisson::task {

Result<PodShm> PodShm::Make(int64_t bytes, uint32_t uid, uint32_t gid, const std::string& folder, bool attached) {
  std::string size = fmt::format("{}", bytes > 0 ? bytes : kDefaultBytes);
  UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC)));
  if (!context) return ErrnoError("open a tmpfs for /dev/shm");
  auto set = [&](const char* key, const std::string& value) {
    return syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0;
  };
  if (!set("source", "shm") || !set("mode", "1777") || !set("size", size) || !set("uid", fmt::format("{}", uid)) ||
      !set("gid", fmt::format("{}", gid)) || syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return ErrnoError("configure a tmpfs of {} bytes for /dev/shm", size);
  }
  PodShm shm;
  shm.mount_ = UniqueFd(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)));
  if (!shm.mount_) return ErrnoError("mount a tmpfs for /dev/shm");
  UniqueFd probe(static_cast<int>(syscall(SYS_open_tree, shm.fd(), "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
  if (probe && !attached) return shm;
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make '{}'", folder);
  if (syscall(SYS_move_mount, shm.fd(), "", AT_FDCWD, folder.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return ErrnoError("mount /dev/shm on '{}'", folder);
  }
  shm.attached_at_ = folder;
  return shm;
}

PodShm& PodShm::operator=(PodShm&& other) {
  Remove();
  mount_ = std::move(other.mount_);
  attached_at_ = std::exchange(other.attached_at_, {});
  return *this;
}

void PodShm::Remove() {
  if (!attached_at_.empty()) umount2(attached_at_.c_str(), MNT_DETACH);
  attached_at_.clear();
  mount_.Reset();
}

}  // namespace caisson::task

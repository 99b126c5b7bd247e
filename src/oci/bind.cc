// SPDX-License-Identifier: Apache-2.0
#include "oci/bind.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace caisson::oci {
namespace {

uint64_t ToAttributes(unsigned long flags) {
  uint64_t attributes = 0;
  if (flags & MS_RDONLY) attributes |= MOUNT_ATTR_RDONLY;
  if (flags & MS_NOSUID) attributes |= MOUNT_ATTR_NOSUID;
  if (flags & MS_NODEV) attributes |= MOUNT_ATTR_NODEV;
  if (flags & MS_NOEXEC) attributes |= MOUNT_ATTR_NOEXEC;
  if (flags & MS_NODIRATIME) attributes |= MOUNT_ATTR_NODIRATIME;
  if (flags & 256) attributes |= MOUNT_ATTR_NOSYMFOLLOW;
  if (flags & MS_NOATIME) attributes |= MOUNT_ATTR_NOATIME;
  if (flags & MS_STRICTATIME) attributes |= MOUNT_ATTR_STRICTATIME;
  return attributes;
}

constexpr unsigned long kAtime = MS_NOATIME | MS_RELATIME | MS_STRICTATIME;

Result<> SetAttr(int fd, mount_attr attributes, bool recursive) {
  unsigned flags = AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0);
  if (syscall(SYS_mount_setattr, fd, "", flags, &attributes, sizeof attributes) != 0)
    return ErrnoError("set mount attributes");
  return {};
}

}  // namespace

Result<UniqueFd> CloneTree(int source_fd, const std::string& source, bool recursive) {
  unsigned flags =
      OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0) | (source.empty() ? AT_EMPTY_PATH : 0);
  int fd = static_cast<int>(syscall(SYS_open_tree, source_fd, source.c_str(), flags));
  if (fd < 0) return ErrnoError("bind mount source '{}'", source);
  return UniqueFd(fd);
}

Result<> SetAttributes(int mount_fd, unsigned long set, unsigned long clear, bool recursive) {
  if (set == 0 && clear == 0) return {};
  mount_attr attributes{};
  attributes.attr_set = ToAttributes(set);
  attributes.attr_clr = ToAttributes(clear & ~kAtime);
  // One of three values, which has to be cleared whole before it is set (mount_setattr(2)).
  if ((set | clear) & kAtime) attributes.attr_clr |= MOUNT_ATTR__ATIME;
  return SetAttr(mount_fd, attributes, recursive);
}

Result<> MapIds(int tree_fd, int user_namespace, bool recursive) {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_IDMAP;
  attributes.userns_fd = static_cast<uint64_t>(user_namespace);
  auto done = SetAttr(tree_fd, attributes, recursive);
  if (done) return {};
  int failed = done.error().sys_errno;
  // mount_setattr(2): EINVAL from a file system that cannot, ENOSYS before Linux 5.12, EPERM if it is mapped already.
  if (failed != EINVAL && failed != ENOSYS && failed != EPERM) return std::move(done.error()).Within("map the owners' ids");
  return MakeError(Code::kFailedPrecondition,
                   "the owners' ids cannot be mapped: {}",
                   failed == ENOSYS   ? "that needs Linux 5.12"
                   : failed == EINVAL ? "the kernel cannot do it on this file system"
                                      : "they are mapped already, or the file system is not the host's");
}

Result<> SetMountPropagation(int mount_fd, unsigned long propagation) {
  if (propagation == 0) return {};
  mount_attr attributes{};
  attributes.propagation = propagation & ~static_cast<unsigned long>(MS_REC);
  return SetAttr(mount_fd, attributes, propagation & MS_REC);
}

Result<> AttachTree(int tree_fd, int target_fd, const MountPlan& plan) {
  TRY(SetAttributes(tree_fd, plan.flags, plan.clear_flags, false));
  TRY(SetAttributes(tree_fd, plan.recursive_set, plan.recursive_clear, true));
  TRY(SetMountPropagation(tree_fd, plan.propagation));
  if (syscall(SYS_move_mount, tree_fd, "", target_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) == 0)
    return {};
  return ErrnoError("attach mount");
}

}  // namespace caisson::oci

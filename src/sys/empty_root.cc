// SPDX-License-Identifier: Apache-2.0
#include "sys/empty_root.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace caisson::sys {

const char* EnterEmptyRoot() {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return "make mounts private";
  int context = static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC));
  if (context < 0) return "open a tmpfs";
  syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "size", "4096", 0);
  syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "mode", "0555", 0);
  if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return "create a tmpfs";
  int root = static_cast<int>(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC,
                                      MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  if (root < 0) return "mount a tmpfs";
  if (syscall(SYS_move_mount, root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) != 0) return "place the empty root";
  // pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one and is taken off it.
  if (fchdir(root) != 0 || syscall(SYS_pivot_root, ".", ".") != 0) return "enter the empty root";
  if (umount2(".", MNT_DETACH) != 0 || chdir("/") != 0) return "leave the host's root";
  close(context);
  close(root);
  return nullptr;
}

}  // namespace caisson::sys

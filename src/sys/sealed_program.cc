// SPDX-License-Identifier: Apache-2.0
#include "sys/sealed_program.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

#include "sys/own_program.h"
#include "sys/path.h"

namespace caisson::sys {

Result<UniqueFd> OpenSealedProgram(const std::string& path) {
  auto [folder, name] = SplitPath(path);
  UniqueFd tree(
      static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, folder.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
  if (!tree) return ErrnoError("bind folder '{}'", folder);
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  attributes.propagation = MS_PRIVATE;
  if (syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0) {
    return ErrnoError("make the bind mount of '{}' read-only", folder);
  }
  UniqueFd program(openat(tree.get(), name.c_str(), O_PATH | O_CLOEXEC | O_NOFOLLOW));
  if (!program) return ErrnoError("open program '{}'", path);
  return program;
}

bool RunsSealed() {
  struct statvfs info {};
  return statvfs("/proc/self/exe", &info) == 0 && (info.f_flag & ST_RDONLY);
}

Result<> RunSealed(char** argv) {
  if (RunsSealed()) return {};
  UniqueFd program = TRY(OpenSealedProgram(TRY(OwnProgram())));
  execve(FdPath(program.get()).c_str(), argv, environ);
  return ErrnoError("run our own program again");
}

}  // namespace caisson::sys

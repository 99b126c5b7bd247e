// SPDX-License-Identifier: Apache-2.0
#include "oci/devices.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <map>

#include "oci/bind.h"
#include "sys/path.h"

namespace caisson::oci {
namespace {

constexpr long kDevptsMagic = 0x1cd1;

mode_t KindOf(const DeviceNode& node) { return node.type == 'b' ? S_IFBLK : node.type == 'p' ? S_IFIFO : S_IFCHR; }

dev_t NumberOf(const DeviceNode& node) {
  return node.type == 'p' ? 0 : makedev(static_cast<unsigned>(node.major), static_cast<unsigned>(node.minor));
}

bool IsNode(int fd, const DeviceNode& node) {
  struct stat info {};
  return fstat(fd, &info) == 0 && (info.st_mode & S_IFMT) == KindOf(node) &&
         (node.type == 'p' || info.st_rdev == NumberOf(node));
}

Result<> BindHostNode(int root_fd, const DeviceNode& node) {
  UniqueFd tree = TRY(CloneTree(AT_FDCWD, node.path, false));
  if (!IsNode(tree.get(), node)) {
    return MakeError(Code::kFailedPrecondition,
                     "device '{}': the host's is not {} {}:{}, and a user namespace cannot make one", node.path,
                     node.type, node.major, node.minor);
  }
  UniqueFd target = TRY(sys::MakeFileInRoot(root_fd, node.path, 0666));
  return AttachTree(tree.get(), target.get(), MountPlan{});
}

Result<> MakeNode(int root_fd, int folder_fd, const std::string& leaf, const DeviceNode& node) {
  bool made = mknodat(folder_fd, leaf.c_str(), KindOf(node) | (node.mode & 07777), NumberOf(node)) == 0;
  if (!made && errno == EPERM) return BindHostNode(root_fd, node);
  if (!made && errno != EEXIST) return ErrnoError("make device '{}'", node.path);
  // By descriptor from here: whoever shares this folder could have put a link there.
  UniqueFd fd(openat(folder_fd, leaf.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return ErrnoError("open device '{}'", node.path);
  if (!IsNode(fd.get(), node))
    return MakeError(Code::kFailedPrecondition, "device '{}': something else is there", node.path);
  if (!made) return {};  // a mount of the spec's has it
  // The umask of the child is 0, so the mode is right already.
  if ((node.uid != 0 || node.gid != 0) && fchownat(fd.get(), "", node.uid, node.gid, AT_EMPTY_PATH) != 0) {
    return ErrnoError("set owner of device '{}'", node.path);
  }
  return {};
}

}  // namespace

Result<> MakeDevices(int root_fd, const std::vector<DeviceNode>& devices, const std::vector<LinkPlan>& links) {
  std::map<std::string, UniqueFd> folders;  // nearly all are in /dev
  auto open_folder = [&](const std::string& folder) -> Result<int> {
    auto& fd = folders[folder];
    if (!fd) fd = TRY(sys::MakeDirInRoot(root_fd, folder, 0755));
    return fd.get();
  };
  for (const auto& node : devices) {
    auto [folder, leaf] = sys::SplitPath(node.path);
    TRY(MakeNode(root_fd, TRY(open_folder(folder)), leaf, node));
  }
  for (const auto& link : links) {
    auto [folder, leaf] = sys::SplitPath(link.path);
    if (symlinkat(link.target.c_str(), TRY(open_folder(folder)), leaf.c_str()) != 0 && errno != EEXIST)
      return ErrnoError("link '{}'", link.path);
  }
  return {};
}

Result<Pty> OpenPty(int root_fd, uint16_t width, uint16_t height) {
  Pty pty;
  pty.master = TRY(sys::OpenInRootNoLinks(root_fd, "/dev/pts/ptmx", O_RDWR | O_NOCTTY));
  struct statfs info {};
  if (fstatfs(pty.master.get(), &info) != 0 || info.f_type != kDevptsMagic) {
    return MakeError(Code::kFailedPrecondition, "'/dev/pts' in the container is not devpts");
  }
  int unlock = 0;
  if (ioctl(pty.master.get(), TIOCSPTLCK, &unlock) != 0) return ErrnoError("unlock the container's pty");
  pty.slave = UniqueFd(ioctl(pty.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!pty.slave) return ErrnoError("open the container's pty");
  if (width > 0 && height > 0) {
    winsize size{height, width, 0, 0};
    ioctl(pty.master.get(), TIOCSWINSZ, &size);
  }
  return pty;
}

Result<Pty> MakeConsole(int root_fd, uint16_t width, uint16_t height) {
  Pty pty = TRY(OpenPty(root_fd, width, height));
  TRY(sys::MakeFileInRoot(root_fd, "/dev/console", 0600));
  // Not through a link, which could lead to /proc (CVE-2025-52565).
  UniqueFd target = TRY(sys::OpenInRootNoLinks(root_fd, "/dev/console", O_PATH));
  UniqueFd tree = TRY(CloneTree(pty.slave.get(), "", false));
  TRY(AttachTree(tree.get(), target.get(), MountPlan{}));
  return pty;
}

}  // namespace caisson::oci

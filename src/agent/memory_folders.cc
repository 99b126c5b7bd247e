// SPDX-License-Identifier: Apache-2.0
#include "agent/memory_folders.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/id.h"
#include "base/unique_fd.h"
#include "sys/path.h"

namespace caisson::agent {
namespace {

std::string MemoryDir(const std::string& name) { return fmt::format("{}/{}", kMemoryDir, name); }

// One more level down, through no link. One that is there stays as it is.
Result<UniqueFd> EnterFolder(int dir, const guest::v1::File& folder) {
  const std::string& name = folder.path();
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos) return MakeError(Code::kInvalidArgument, "'{}' is no folder's name", folder.path().substr(0, 128));
  bool made = mkdirat(dir, folder.path().c_str(), 0700) == 0;
  if (!made && errno != EEXIST) return ErrnoError("make the folder '{}'", folder.path());
  UniqueFd fd = TRY(sys::OpenInRootNoLinks(dir, folder.path(), O_RDONLY | O_DIRECTORY));
  if (made && (fchown(fd.get(), folder.uid(), folder.gid()) != 0 || fchmod(fd.get(), folder.mode() & 07777) != 0)) return ErrnoError("own the folder '{}'", folder.path());
  return fd;
}

// statx(2): the root of a mount.
bool IsMounted(const std::string& dir) {
  struct statx info {};
  return statx(AT_FDCWD, dir.c_str(), AT_SYMLINK_NOFOLLOW, STATX_TYPE, &info) == 0 && (info.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

Result<> MakeMountPoint(const std::string& dir) {
  mkdir(kMemoryDir, 0711);
  if (mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST) return ErrnoError("make '{}'", dir);
  return {};
}

Result<> MountWhole(const guest::v1::ShareMemoryRequest& request) {
  std::string dir = MemoryDir(request.name()), options = fmt::format("mode={:o},uid={},gid={},size={}", request.root().mode() & 07777, request.root().uid(),
                                                                     request.root().gid(), request.bytes());
  if (IsMounted(dir)) return {};
  TRY(MakeMountPoint(dir));
  if (mount("memory", dir.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, options.c_str()) != 0) return ErrnoError("mount a tmpfs of {} bytes", request.bytes());
  return {};
}

// What another container has made of the folder meanwhile is another folder: it is mounted in its place for those that come.
Result<> MountBelow(const guest::v1::ShareMemoryRequest& request) {
  UniqueFd at(open(MemoryDir(request.name()).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!at) return ErrnoError("open it");
  for (const auto& folder : request.folders()) at = TRY(EnterFolder(at.get(), folder));
  std::string dir = MemoryDir(request.folder_name());
  TRY(MakeMountPoint(dir));
  if (IsMounted(dir)) umount2(dir.c_str(), MNT_DETACH);
  if (mount(sys::FdPath(at.get()).c_str(), dir.c_str(), nullptr, MS_BIND, nullptr) != 0) return ErrnoError("mount '{}'", dir);
  return {};
}

}  // namespace

Result<> MountMemoryFolder(const guest::v1::ShareMemoryRequest& request) {
  const bool below = !request.folders().empty();
  if (!IsSafeName(request.name()) || (below && !IsSafeName(request.folder_name()))) return MakeError(Code::kInvalidArgument, "'{}' is no volume's name", request.name().substr(0, 128));
  auto mounted = MountWhole(request);
  if (mounted && below) mounted = MountBelow(request);
  if (!mounted) return std::move(mounted.error()).Within(fmt::format("volume '{}' in memory", request.name()));
  return {};
}

}  // namespace caisson::agent

// SPDX-License-Identifier: Apache-2.0
#include "shim/memory_folder.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <cstdlib>
#include <memory>
#include <string_view>

#include "base/strings.h"
#include "shim/guest_spec.h"

namespace caisson::shim {
namespace {

constexpr std::string_view kEmptyDirs = "/volumes/kubernetes.io~empty-dir/", kSubPaths = "/volume-subpaths/";

Result<> Describe(const std::string& path, guest::v1::File* to) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) return ErrnoError("look at '{}'", path);
  if (!S_ISDIR(info.st_mode)) return MakeError(Code::kFailedPrecondition, "'{}' is no folder", path);
  to->set_mode(info.st_mode);
  to->set_uid(info.st_uid);
  to->set_gid(info.st_gid);
  return {};
}

// What is behind `folder` in `path`, without the slash; nothing if it is not in there.
std::optional<std::string> Behind(const std::string& path, std::string folder) {
  while (folder.ends_with('/')) folder.pop_back();
  if (path == folder) return std::string();
  if (!path.starts_with(folder + "/")) return std::nullopt;
  return path.substr(folder.size() + 1);
}

}  // namespace

std::optional<MemoryFolder> FindMemoryFolder(const std::string& path, uint32_t major, uint32_t minor, const std::vector<sys::MountInfo>& mounts) {
  const sys::MountInfo *whole = nullptr, *nearest = nullptr;
  for (const auto& mount : mounts) {
    if (mount.major != major || mount.minor != minor || mount.fs_type != "tmpfs") continue;
    size_t at = mount.mount_point.rfind(kEmptyDirs);
    bool is_volume = at != std::string::npos && mount.mount_point.find('/', at + kEmptyDirs.size()) == std::string::npos;
    if (mount.root == "/" && is_volume) whole = &mount;
    // Of two at one place the later covers the former.
    if (Behind(path, mount.mount_point) && (nearest == nullptr || mount.mount_point.size() >= nearest->mount_point.size())) nearest = &mount;
  }
  if (whole == nullptr || nearest == nullptr) return std::nullopt;
  std::string below = nearest->root.substr(1), rest = *Behind(path, nearest->mount_point);
  if (!below.empty() && !rest.empty()) below += "/";
  return MemoryFolder{whole->mount_point, below + rest};
}

std::optional<MemoryFolder> MemoryFolderAt(const std::string& source) {
  // Most are none: a table of mounts can be long.
  if (source.find(kEmptyDirs) == std::string::npos && source.find(kSubPaths) == std::string::npos) return std::nullopt;
  struct statfs system {};
  struct stat info {};
  if (statfs(source.c_str(), &system) != 0 || system.f_type != TMPFS_MAGIC || stat(source.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) return std::nullopt;
  std::unique_ptr<char, void (*)(void*)> path(realpath(source.c_str(), nullptr), free);
  auto mounts = path ? sys::ReadMountInfo() : Result<std::vector<sys::MountInfo>>(ErrnoError("look at '{}'", source));
  return mounts ? FindMemoryFolder(path.get(), major(info.st_dev), minor(info.st_dev), *mounts) : std::nullopt;
}

Result<guest::v1::ShareMemoryRequest> ShareOf(const std::string& source, const std::string& name) {
  auto folder = MemoryFolderAt(source);
  if (!folder) return MakeError(Code::kFailedPrecondition, "volume '{}' is no volume in memory any more", source);
  guest::v1::ShareMemoryRequest request;
  struct statfs system {};
  if (statfs(folder->volume.c_str(), &system) != 0) return ErrnoError("look at '{}'", folder->volume);
  request.set_name(VolumeName(folder->volume));
  request.set_bytes(static_cast<uint64_t>(system.f_blocks) * static_cast<uint64_t>(system.f_bsize));
  request.set_folder_name(name);
  TRY(Describe(folder->volume, request.mutable_root()));
  std::string path = folder->volume;
  for (std::string_view part : Split(folder->below, '/')) {
    if (part.empty()) continue;
    path += "/" + std::string(part);
    auto* one = request.add_folders();
    one->set_path(std::string(part));
    TRY(Describe(path, one));
  }
  return request;
}

}  // namespace caisson::shim

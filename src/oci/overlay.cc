// SPDX-License-Identifier: Apache-2.0
#include "oci/overlay.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/scope_exit.h"
#include "base/unique_fd.h"
#include "oci/bind.h"
#include "sys/path.h"

namespace caisson::oci {
namespace {

// mount(2): "the data argument is … at most one page", its zero included. Pages of 4 KiB are the smallest.
constexpr size_t kMountDataBytes = 4095;

// Pieces at `separator` where no backslash is before it (overlayfs escapes ',' and ':' so).
std::vector<std::string> SplitEscaped(const std::string& text, char separator) {
  std::vector<std::string> pieces(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) {
      pieces.back() += text[i++];
      pieces.back() += text[i];
    } else if (text[i] == separator) {
      pieces.emplace_back();
    } else {
      pieces.back() += text[i];
    }
  }
  return pieces;
}

std::string Unescape(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) ++i;
    plain += text[i];
  }
  return plain;
}

constexpr std::string_view kLower = "lowerdir=";

// An id-mapped copy of the mount that `folder` is in, on top of it.
Result<> MapInPlace(const std::string& folder, int mapping) {
  UniqueFd tree = TRY(CloneTree(AT_FDCWD, folder, false));
  auto mapped = MapIds(tree.get(), mapping, false);
  if (!mapped) return std::move(mapped.error()).Within("image layer '" + folder + "'");
  UniqueFd target(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!target) return ErrnoError("open '{}'", folder);
  return AttachTree(tree.get(), target.get(), MountPlan{});
}

// Overlayfs cannot be id-mapped itself, but takes layers that are (Linux 5.19).
Result<> MapLayers(const MountPlan& plan, int mapping, std::vector<std::string>* mapped) {
  auto map = [&](const std::string& folder) -> Result<> {
    TRY(MapInPlace(folder, mapping));
    mapped->push_back(folder);
    return {};
  };
  if (plan.kind == MountKind::kBind) return map(plan.source);
  for (const auto& option : SplitEscaped(plan.data, ',')) {
    if (!option.starts_with(kLower)) continue;
    for (const auto& folder : SplitEscaped(option.substr(kLower.size()), ':'))
      TRY(map(Unescape(folder)));
  }
  return {};
}

// Folder by folder, on kernels that can.
Result<> MountOneByOne(const MountPlan& plan, const std::string& data) {
  UniqueFd context(static_cast<int>(syscall(SYS_fsopen, plan.type.c_str(), FSOPEN_CLOEXEC)));
  if (!context) return ErrnoError("open file system '{}'", plan.type);
  auto set = [&](unsigned command, const std::string& key, const char* value) -> Result<> {
    if (syscall(SYS_fsconfig, context.get(), command, key.c_str(), value, 0) == 0) return {};
    int failed = errno;
    if (failed == EINVAL && key == "lowerdir+") {
      return MakeError(Code::kUnimplemented, "the root file system's {} bytes of options need Linux 6.5", data.size());
    }
    return SysError(failed, fmt::format("root file system option '{}={}'", key, value == nullptr ? "" : value));
  };
  TRY(set(FSCONFIG_SET_STRING, "source", plan.source.c_str()));
  for (const auto& option : SplitEscaped(data, ',')) {
    if (option.starts_with(kLower)) {
      for (const auto& lower : SplitEscaped(option.substr(kLower.size()), ':'))
        TRY(set(FSCONFIG_SET_STRING, "lowerdir+", Unescape(lower).c_str()));
      continue;
    }
    size_t equals = option.find('=');
    if (equals == std::string::npos) {
      TRY(set(FSCONFIG_SET_FLAG, option, nullptr));
    } else {
      TRY(set(FSCONFIG_SET_STRING, option.substr(0, equals), Unescape(option.substr(equals + 1)).c_str()));
    }
  }
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return ErrnoError("make the root file system");
  unsigned attributes = 0;
  for (auto [flag, attribute] : {std::pair<unsigned long, unsigned>(MS_RDONLY, MOUNT_ATTR_RDONLY),
                                 {MS_NOSUID, MOUNT_ATTR_NOSUID},
                                 {MS_NODEV, MOUNT_ATTR_NODEV},
                                 {MS_NOEXEC, MOUNT_ATTR_NOEXEC},
                                 {MS_NOATIME, MOUNT_ATTR_NOATIME}}) {
    if (plan.flags & flag) attributes |= attribute;
  }
  UniqueFd mounted(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, attributes)));
  if (!mounted) return ErrnoError("mount the root file system");
  if (syscall(SYS_move_mount, mounted.get(), "", AT_FDCWD, plan.destination.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return ErrnoError("attach the root file system on '{}'", plan.destination);
  }
  return {};
}

}  // namespace

ShortOptions ShortenLowerDirs(const std::string& data) {
  ShortOptions result{"", ""};
  auto options = SplitEscaped(data, ',');
  for (auto& option : options) {
    if (!option.starts_with(kLower)) continue;
    auto folders = SplitEscaped(option.substr(kLower.size()), ':');
    std::string common = folders[0].substr(0, folders[0].rfind('/') + 1);
    for (const auto& folder : folders) {
      while (!folder.starts_with(common)) {
        common.pop_back();
        common.erase(common.rfind('/') + 1);  // npos + 1: all of it
      }
    }
    if (common.empty() || common[0] != '/' || common == "/") return {"", data};
    result.folder = Unescape(common);
    option = kLower;
    for (const auto& folder : folders) option += (&folder == &folders[0] ? "" : ":") + folder.substr(common.size());
  }
  for (const auto& option : options) result.data += (&option == &options[0] ? "" : ",") + option;
  return result;
}

Result<> MountLayers(const MountPlan& plan, int mapping, std::vector<std::string>* mapped) {
  ShortOptions options{"", plan.data};
  std::vector<std::string> unused;
  if (!plan.id_maps.empty()) TRY(MapLayers(plan, mapping, mapped == nullptr ? &unused : mapped));
  if (plan.data.size() > kMountDataBytes && plan.type == "overlay") {
    options = ShortenLowerDirs(plan.data);
    if (!options.folder.empty() && chdir(options.folder.c_str()) != 0) return ErrnoError("enter '{}'", options.folder);
    if (options.data.size() > kMountDataBytes) return MountOneByOne(plan, options.data);
  }
  unsigned long flags = plan.flags;
  if (plan.kind == MountKind::kBind) flags |= MS_BIND | (plan.recursive ? MS_REC : 0);
  if (mount(plan.source.c_str(), plan.destination.c_str(), plan.type.c_str(), flags, options.data.c_str()) != 0) {
    return ErrnoError("mount {} root file system on '{}' ({})", plan.type, plan.destination,
                      options.data.substr(0, 512));
  }
  // mount(2): a bind mount takes no other flags when it is made.
  if (plan.kind == MountKind::kBind && plan.flags != 0 &&
      mount(nullptr, plan.destination.c_str(), nullptr, MS_REMOUNT | MS_BIND | plan.flags, nullptr) != 0) {
    return ErrnoError("set flags of the root file system on '{}'", plan.destination);
  }
  return {};
}

Result<UniqueFd> CloneImage(const MountPlan& plan, const std::string& at, int mapping) {
  MountPlan whole;
  whole.id_maps = plan.id_maps;
  whole.destination = at;
  whole.type = whole.source = "overlay";
  whole.flags = plan.flags;
  whole.data = plan.data;
  // Images share layers, with each other and with the root file system, and what is id-mapped cannot be again (mount_setattr(2)).
  // Overlayfs has copies of its layers' mounts (clone_private_mount of the kernel), so these may go.
  std::vector<std::string> mapped;
  ScopeExit unmap([&] {
    for (auto folder = mapped.rbegin(); folder != mapped.rend(); ++folder) umount2(folder->c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
  });
  TRY(MountLayers(whole, mapping, &mapped));
  // open_tree(2) takes no part of a mount that is attached nowhere before Linux 6.15, so this one is attached meanwhile.
  ScopeExit unmount([&] { umount2(at.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW); });
  UniqueFd top(open(at.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!top) return ErrnoError("open the image's layers");
  if (plan.sub_path.empty()) return CloneTree(top.get(), "", false);
  auto part = sys::OpenInRoot(top.get(), plan.sub_path, O_PATH);
  if (!part) return std::move(part.error()).Within("sub path of the image");
  struct stat info {};
  if (fstat(part->get(), &info) != 0) return ErrnoError("look at the sub path '{}'", plan.sub_path);
  if (!S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode)) {
    return MakeError(Code::kInvalidArgument, "the sub path '{}' of the image is neither a folder nor a file", plan.sub_path);
  }
  return CloneTree(part->get(), "", false);
}

}  // namespace caisson::oci

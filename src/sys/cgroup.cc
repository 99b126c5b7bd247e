// SPDX-License-Identifier: Apache-2.0
#include "sys/cgroup.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"

namespace caisson::sys {
namespace {

constexpr char kRoot[] = "/sys/fs/cgroup";
constexpr int kMaxHierarchies = 256;

bool IsController(std::string_view option) {
  static constexpr std::array<std::string_view, 14> kNames = {
      "cpuset", "cpu",     "cpuacct", "blkio", "memory", "devices", "freezer", "net_cls", "perf_event",
      "net_prio", "hugetlb", "pids",    "rdma",  "misc"};
  return std::find(kNames.begin(), kNames.end(), option) != kNames.end() || option.starts_with("name=");
}

bool Better(const MountInfo& a, const MountInfo& b) {
  if ((a.root == "/") != (b.root == "/")) return a.root == "/";
  return a.mount_point.starts_with(kRoot) && !b.mount_point.starts_with(kRoot);
}

}  // namespace

Result<std::vector<CgroupMembership>> ParseCgroupMembership(std::string_view text) {
  std::vector<CgroupMembership> all;
  while (!text.empty()) {
    size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    // hierarchy-ID:controller-list:cgroup-path; the path may hold colons.
    size_t first = line.find(':');
    size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    auto id = ParseUint64(line.substr(0, first));
    if (second == std::string_view::npos || !id || *id > 1'000'000 || all.size() >= kMaxHierarchies ||
        second + 1 >= line.size() || line[second + 1] != '/') {
      return MakeError(Code::kInvalidArgument, "cgroup membership: line {} is malformed", all.size() + 1);
    }
    CgroupMembership one;
    one.hierarchy = static_cast<int>(*id);
    std::string_view controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty()) {
      for (std::string_view name : Split(controllers, ',')) one.controllers.emplace_back(name);
    }
    one.path = line.substr(second + 1);
    all.push_back(std::move(one));
  }
  return all;
}

Result<std::vector<CgroupMembership>> ReadCgroupMembership(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return ErrnoError("open '{}'", path);
  std::string text(limits::kCgroupFileBytes, '\0');
  size_t have = 0;
  while (have < text.size()) {
    ssize_t n = read(fd.get(), text.data() + have, text.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError("read '{}'", path);
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  if (have == text.size()) return MakeError(Code::kResourceExhausted, "'{}' is larger than {} bytes", path, have);
  text.resize(have);
  auto all = ParseCgroupMembership(text);
  if (!all) return std::move(all.error()).Within(path);
  return all;
}

std::vector<CgroupMount> CgroupMounts(const std::vector<MountInfo>& mounts) {
  std::vector<const MountInfo*> chosen;
  for (const MountInfo& mount : mounts) {
    if (mount.fs_type != "cgroup" && mount.fs_type != "cgroup2") continue;
    auto same = std::find_if(chosen.begin(), chosen.end(), [&](const MountInfo* other) {
      return other->major == mount.major && other->minor == mount.minor;
    });
    if (same == chosen.end()) {
      chosen.push_back(&mount);
    } else if (Better(mount, **same)) {
      *same = &mount;
    }
  }
  std::vector<CgroupMount> out;
  for (const MountInfo* mount : chosen) {
    CgroupMount one{mount->fs_type == "cgroup2", {}, mount->mount_point, mount->root};
    if (!one.v2) {
      for (std::string_view option : Split(mount->super_options, ',')) {
        if (IsController(option)) one.controllers.emplace_back(option);
      }
      if (one.controllers.empty()) continue;
    }
    out.push_back(std::move(one));
  }
  return out;
}

bool IsPureV2() {
  struct statfs fs{};
  return statfs(kRoot, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

Result<std::vector<CgroupMount>> ReadCgroupMounts() {
  if (IsPureV2()) return std::vector<CgroupMount>{CgroupMount{true, {}, kRoot, "/"}};
  return CgroupMounts(TRY(ReadMountInfo()));
}

CgroupMode ModeOf(const std::vector<CgroupMount>& mounts) {
  bool v1 = false, v2 = false;
  for (const CgroupMount& mount : mounts) {
    // The systemd hierarchy alone carries no controller: such a host runs its controllers on v2.
    if (mount.v2) v2 = true;
    else v1 = v1 || std::any_of(mount.controllers.begin(), mount.controllers.end(),
                                [](const std::string& name) { return !name.starts_with("name="); });
  }
  if (v1) return v2 ? CgroupMode::kHybrid : CgroupMode::kV1;
  return v2 ? CgroupMode::kV2 : CgroupMode::kNone;
}

}  // namespace caisson::sys

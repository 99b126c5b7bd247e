// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_v2.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/strings.h"
#include "oci/cgroup_device_bpf.h"
#include "oci/cgroup_dir.h"
#include "oci/cgroup_stats.h"

namespace caisson::oci {
namespace {

// What Resources may limit or Stats may read; threaded or debug controllers are not delegated.
constexpr std::array<std::string_view, 8> kWanted = {"cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"};

bool HasWord(std::string_view text, std::string_view word) {
  std::vector<std::string_view> words = Split(text, ' ');
  return std::find(words.begin(), words.end(), word) != words.end();
}

}  // namespace

CgroupV2::CgroupV2(std::string root, std::string name, std::unique_ptr<SystemdScope> scope) {
  name_ = std::move(name);
  scope_ = std::move(scope);
  hierarchies_.push_back({true, {}, root, root + "/" + name_});
}

std::string CgroupV2::ParentDir() const {
  const std::string& path = hierarchies_[0].path;
  return path.substr(0, path.rfind('/'));
}

// A controller is usable in a group when all its ancestors name it in cgroup.subtree_control, top down.
Result<> CgroupV2::Delegate(const std::string& dir) {
  std::string available = TRY(ReadCgroupFile(dir + "/cgroup.controllers"));
  std::string enabled = TRY(ReadCgroupFile(dir + "/cgroup.subtree_control"));
  bool checked = false;
  for (std::string_view controller : kWanted) {
    if (!HasWord(available, controller) || HasWord(enabled, controller)) continue;
    // Asked for first: some controllers may be enabled in spite of processes, which makes the group the root of a threaded
    // tree and what is below it invalid (cgroup-v2.rst, "Threads"). The hierarchy's root, which has no type, is exempt.
    if (!std::exchange(checked, true) && CgroupPathExists(dir + "/cgroup.type") && !TRY(OwnCgroupPids(dir)).empty()) {
      return MakeError(Code::kFailedPrecondition,
                       "cgroup '{}' holds processes itself, so no container can be limited below it (cgroup v2 allows "
                       "processes in leaves only); give a cgroup parent without processes",
                       dir);
    }
    auto written = WriteCgroupFile(dir + "/cgroup.subtree_control", fmt::format("+{}", controller));
    if (written) continue;
    int err = written.error().sys_errno;
    // Not ours to enable (a container's view, cpu with realtime processes): PlanWrites says so if it is needed.
    if (err == EBUSY || err == EACCES || err == EPERM || err == EROFS || err == ENOENT || err == EINVAL || err == EOPNOTSUPP) {
      continue;
    }
    return written;
  }
  return {};
}

Result<> CgroupV2::PrepareParents(const CgroupHierarchy& hierarchy) {
  // Existing ancestors from the root down; those that are made get their turn in Initialise of their child.
  std::string dir = hierarchy.mount_point;
  std::vector<std::string_view> parts = Split(name_, '/');
  for (std::string_view part : parts) {
    if (!CgroupPathExists(dir)) break;
    if (scope_ && dir == ParentDir()) break;  // the scope, which holds the placeholder: Settle
    TRY(Delegate(dir));
    dir += "/" + std::string(part);
  }
  return {};
}

Result<> CgroupV2::Settle() {
  if (!scope_ || hierarchies_.empty()) return {};
  return Delegate(ParentDir());
}

Result<> CgroupV2::Initialise(const CgroupHierarchy& hierarchy, const std::string& dir) {
  if (dir == hierarchy.path) return {};
  return Delegate(dir);
}

Result<> CgroupV2::LoadControllers() {
  if (loaded_ || hierarchies_.empty()) return {};
  hierarchies_[0].controllers.clear();
  std::string text = TRY(ReadCgroupFile(hierarchies_[0].path + "/cgroup.controllers"));
  for (std::string_view name : Split(text, ' ')) {
    if (!name.empty()) hierarchies_[0].controllers.emplace_back(name);
  }
  loaded_ = true;
  return {};
}

const CgroupHierarchy* CgroupV2::HierarchyOf(std::string_view controller) const {
  if (hierarchies_.empty()) return nullptr;
  const std::vector<std::string>& names = hierarchies_[0].controllers;
  return std::find(names.begin(), names.end(), controller) == names.end() ? nullptr : &hierarchies_[0];
}

Result<std::vector<CgroupWrite>> CgroupV2::PlanWrites(const Resources& resources) {
  TRY(LoadControllers());
  CgroupView view;
  view.page_size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  view.has_controller = [this](std::string_view controller) { return HierarchyOf(controller) != nullptr; };
  view.has_file = [this](std::string_view, const std::string& file) {
    return CgroupPathExists(hierarchies_[0].path + "/" + file);
  };
  if (resources.memory && resources.memory->check_before_update.value_or(false) && HierarchyOf("memory") != nullptr) {
    view.memory_usage = TRY(ReadCgroupNumber(FileOf("memory", "memory.current")));
  }
  if (resources.cpu && HierarchyOf("cpu") != nullptr) {
    if (auto now = ReadCgroupFile(FileOf("cpu", "cpu.max"))) view.cpu_quota = std::string(Split(*now, ' ')[0]);
  }
  return PlanV2(resources, view);
}

Result<> CgroupV2::Exists() const {
  if (hierarchies_.empty()) return MakeError(Code::kFailedPrecondition, "there is no cgroup '{}'", name_);
  return {};
}

Result<> CgroupV2::ApplyDevices(const std::vector<Resources::DeviceRule>& rules, bool) {
  TRY(Exists());
  return AttachDeviceProgram(hierarchies_[0].path, TRY(CompileDeviceRules(rules)));
}

Result<bool> CgroupV2::Frozen() {
  TRY(Exists());
  return FlatKey(TRY(ReadCgroupFile(hierarchies_[0].path + "/cgroup.events")), "frozen").value_or(0) == 1;
}

Result<> CgroupV2::Freeze(Deadline deadline) {
  TRY(Exists());
  TRY(WriteCgroupFile(hierarchies_[0].path + "/cgroup.freeze", "1"));
  if (TRY(PollUntil(deadline, [this] { return Frozen(); }))) return {};
  TRY(Thaw());
  return MakeError(Code::kDeadlineExceeded, "cgroup '{}' did not freeze in time", name_);
}

Result<> CgroupV2::Thaw() {
  if (hierarchies_.empty()) return {};
  auto thawed = WriteCgroupFile(hierarchies_[0].path + "/cgroup.freeze", "0");
  if (!thawed && thawed.error().sys_errno != ENOENT) return thawed;
  return {};
}

Result<CgroupStats> CgroupV2::Stats(StatsPart part) {
  TRY(Exists());
  return ReadStatsV2(hierarchies_[0].path, part);
}

Result<UniqueFd> CgroupV2::OomEvents() {
  TRY(Exists());
  UniqueFd watch(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!watch) return ErrnoError("inotify for the OOM events of '{}'", name_);
  std::string path = hierarchies_[0].path + "/memory.events";
  if (inotify_add_watch(watch.get(), path.c_str(), IN_MODIFY) < 0) return ErrnoError("watch '{}'", path);
  return watch;
}

Result<uint64_t> CgroupV2::OomKills() {
  if (hierarchies_.empty()) return uint64_t{0};
  auto text = ReadCgroupFile(hierarchies_[0].path + "/memory.events");
  if (!text) {
    if (text.error().sys_errno == ENOENT) return uint64_t{0};  // no memory controller here
    return std::move(text.error());
  }
  return FlatKey(*text, "oom_kill").value_or(0);
}

}  // namespace caisson::oci

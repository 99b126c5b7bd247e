// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_v1.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/strings.h"
#include "oci/cgroup_dir.h"
#include "oci/cgroup_stats.h"

namespace caisson::oci {
namespace {

bool Holds(const CgroupHierarchy& hierarchy, std::string_view controller) {
  return std::find(hierarchy.controllers.begin(), hierarchy.controllers.end(), controller) != hierarchy.controllers.end();
}

// A new cpuset is empty and takes no process; it gets what its parent has (cpusets.rst), which may be empty as well.
Result<> InheritCpuset(const std::string& mount_point, const std::string& dir) {
  std::string parent = dir.substr(0, dir.rfind('/'));
  for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
    std::string value = TRY(ReadCgroupFile(dir + file));
    if (!value.empty()) continue;
    value = TRY(ReadCgroupFile(parent + file));
    if (value.empty()) {
      if (parent.size() <= mount_point.size()) continue;
      TRY(InheritCpuset(mount_point, parent));
      value = TRY(ReadCgroupFile(parent + file));
    }
    TRY(WriteCgroupFile(dir + file, value));
  }
  return {};
}

// The rules as one set of allowed lines, if they say "deny everything, then allow these", as those of containers do.
bool IsAllowList(const std::vector<CgroupWrite>& writes) {
  if (writes.empty() || writes[0].file != "devices.deny" || writes[0].value[0] != 'a') return false;
  return std::all_of(writes.begin() + 1, writes.end(),
                     [](const CgroupWrite& w) { return w.file == "devices.allow" && w.value[0] != 'a'; });
}

}  // namespace

CgroupV1::CgroupV1(const std::vector<sys::CgroupMount>& mounts, std::string name, std::unique_ptr<SystemdScope> scope) {
  name_ = std::move(name);
  scope_ = std::move(scope);
  for (const sys::CgroupMount& mount : mounts) {
    hierarchies_.push_back({mount.v2, mount.controllers, mount.mount_point, mount.mount_point + "/" + name_});
  }
  // cgroup2 first: removing it fails at once while processes live, before anything else is gone.
  std::stable_partition(hierarchies_.begin(), hierarchies_.end(), [](const CgroupHierarchy& one) { return one.v2; });
}

Result<> CgroupV1::Initialise(const CgroupHierarchy& hierarchy, const std::string& dir) {
  if (!Holds(hierarchy, "cpuset")) return {};
  return InheritCpuset(hierarchy.mount_point, dir);
}

Result<> CgroupV1::PrepareParents(const CgroupHierarchy&) { return {}; }

const CgroupHierarchy* CgroupV1::HierarchyOf(std::string_view controller) const {
  for (const CgroupHierarchy& one : hierarchies_) {
    if (!one.v2 && Holds(one, controller)) return &one;
  }
  return nullptr;
}

Result<std::vector<CgroupWrite>> CgroupV1::PlanWrites(const Resources& resources) {
  CgroupView view;
  view.page_size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  view.has_controller = [this](std::string_view controller) { return HierarchyOf(controller) != nullptr; };
  view.has_file = [this](std::string_view controller, const std::string& file) {
    return HierarchyOf(controller) != nullptr && CgroupPathExists(FileOf(controller, file));
  };
  if (resources.memory && HierarchyOf("memory") != nullptr) {
    if (resources.memory->check_before_update.value_or(false)) {
      view.memory_usage = TRY(ReadCgroupNumber(FileOf("memory", "memory.usage_in_bytes")));
    }
    if (auto limit = ReadCgroupNumber(FileOf("memory", "memory.memsw.limit_in_bytes"))) view.memsw_limit = *limit;
  }
  return PlanV1(resources, view);
}

Result<> CgroupV1::ApplyDevices(const std::vector<Resources::DeviceRule>& rules, bool fresh) {
  auto writes = TRY(PlanV1Devices(rules));
  if (HierarchyOf("devices") == nullptr) {
    return MakeError(Code::kFailedPrecondition, "device rules are set, but this host has no cgroup controller 'devices'");
  }
  if (fresh || !IsAllowList(writes)) return Carry(writes);
  // A living group must not pass through "everything denied": only what differs is written, new rights first.
  std::string text = TRY(ReadCgroupFile(FileOf("devices", "devices.list")));
  std::set<std::string> now;
  for (std::string_view line : Split(text, '\n')) now.emplace(line);
  if (now.count("a *:* rwm") != 0) return Carry(writes);
  std::vector<CgroupWrite> changes;
  std::set<std::string> wanted;
  for (auto write = writes.begin() + 1; write != writes.end(); ++write) {
    wanted.insert(write->value);
    if (now.count(write->value) == 0) changes.push_back(*write);
  }
  std::vector<CgroupWrite> denials, repeats;
  for (const std::string& line : now) {
    if (line.empty() || wanted.count(line) != 0) continue;
    CgroupWrite deny;
    deny.controller = "devices";
    deny.file = "devices.deny";
    deny.value = line;
    denials.push_back(std::move(deny));
  }
  // "c 1:3 rwm" denied takes "c 1:3 r" away as well: what stays wanted is allowed again.
  if (!denials.empty()) repeats.assign(writes.begin() + 1, writes.end());
  changes.insert(changes.end(), denials.begin(), denials.end());
  changes.insert(changes.end(), repeats.begin(), repeats.end());
  return Carry(changes);
}

Result<bool> CgroupV1::Frozen() {
  if (HierarchyOf("freezer") != nullptr) {
    std::string state = TRY(ReadCgroupFile(FileOf("freezer", "freezer.state")));
    return state == "FROZEN";
  }
  const CgroupHierarchy* unified = Unified();
  if (unified == nullptr) return MakeError(Code::kFailedPrecondition, "this host has no cgroup freezer");
  return FlatKey(TRY(ReadCgroupFile(unified->path + "/cgroup.events")), "frozen").value_or(0) == 1;
}

Result<> CgroupV1::Freeze(Deadline deadline) {
  bool v1 = HierarchyOf("freezer") != nullptr;
  if (!v1 && Unified() == nullptr) return MakeError(Code::kFailedPrecondition, "this host has no cgroup freezer");
  std::string file = v1 ? FileOf("freezer", "freezer.state") : Unified()->path + "/cgroup.freeze";
  bool frozen = TRY(PollUntil(deadline, [&]() -> Result<bool> {
    // Written again each time: a process forked while the others froze may have missed it (freezer-subsystem.rst).
    TRY(WriteCgroupFile(file, v1 ? "FROZEN" : "1"));
    return Frozen();
  }));
  if (frozen) return {};
  TRY(Thaw());
  return MakeError(Code::kDeadlineExceeded, "cgroup '{}' did not freeze in time", name_);
}

Result<> CgroupV1::Thaw() {
  if (HierarchyOf("freezer") != nullptr) {
    auto thawed = WriteCgroupFile(FileOf("freezer", "freezer.state"), "THAWED");
    if (!thawed && thawed.error().sys_errno != ENOENT) return thawed;
    return {};
  }
  const CgroupHierarchy* unified = Unified();
  if (unified == nullptr) return {};
  auto thawed = WriteCgroupFile(unified->path + "/cgroup.freeze", "0");
  if (!thawed && thawed.error().sys_errno != ENOENT) return thawed;
  return {};
}

Result<CgroupStats> CgroupV1::Stats(StatsPart part) {
  auto path = [this](std::string_view controller) {
    const CgroupHierarchy* hierarchy = HierarchyOf(controller);
    return hierarchy == nullptr ? std::string() : hierarchy->path;
  };
  const CgroupHierarchy* unified = Unified();
  return ReadStatsV1({path("cpu"), path("cpuacct"), path("memory"), path("pids"), path("blkio"), path("hugetlb"),
                      unified == nullptr ? std::string() : unified->path},
                     part);
}

Result<UniqueFd> CgroupV1::OomEvents() {
  const CgroupHierarchy* memory = HierarchyOf("memory");
  if (memory == nullptr) return MakeError(Code::kFailedPrecondition, "this host has no cgroup controller 'memory'");
  UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) return ErrnoError("eventfd for the OOM events of '{}'", name_);
  std::string path = memory->path + "/memory.oom_control";
  UniqueFd control(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!control) return ErrnoError("open '{}'", path);
  // The kernel keeps its own references (cgroups.rst, "Notification API").
  TRY(WriteCgroupFile(memory->path + "/cgroup.event_control", fmt::format("{} {}", event.get(), control.get())));
  return event;
}

Result<uint64_t> CgroupV1::OomKills() {
  if (HierarchyOf("memory") == nullptr) return uint64_t{0};
  std::string text = TRY(ReadCgroupFile(FileOf("memory", "memory.oom_control")));
  return FlatKey(text, "oom_kill").value_or(0);  // since Linux 4.13
}

}  // namespace caisson::oci

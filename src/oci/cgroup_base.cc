// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_base.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "base/strings.h"
#include "oci/cgroup_dir.h"

namespace caisson::oci {
namespace {

Result<> WriteOne(const std::string& path, const CgroupWrite& write) {
  auto written = WriteCgroupFile(path, write.value);
  if (!written) {
    int err = written.error().sys_errno;
    if (write.optional && (err == ENOENT || err == EOPNOTSUPP)) return {};
    return written;
  }
  if (write.read_back.empty()) return {};
  std::string now = TRY(ReadCgroupFile(path));
  if (now != write.read_back) {
    return MakeError(Code::kInvalidArgument, "write '{}' to '{}': the kernel made it '{}'", write.value, path, now);
  }
  return {};
}

}  // namespace

const CgroupHierarchy* CgroupBase::Unified() const {
  for (const CgroupHierarchy& one : hierarchies_) {
    if (one.v2) return &one;
  }
  return nullptr;
}

std::string CgroupBase::FileOf(std::string_view controller, const std::string& file) const {
  const CgroupHierarchy* hierarchy = HierarchyOf(controller);
  return hierarchy == nullptr ? std::string() : hierarchy->path + "/" + file;
}

Result<> CgroupBase::MakeIn(const CgroupHierarchy& hierarchy, Rollback* rollback) {
  TRY(PrepareParents(hierarchy));
  auto made = std::make_shared<std::vector<std::string>>();
  rollback->Add([made] {
    for (auto dir = made->rbegin(); dir != made->rend(); ++dir) (void)RemoveCgroup(*dir);
  });
  auto init = [&](const std::string& dir) { return Initialise(hierarchy, dir); };
  auto result = MakeCgroup(hierarchy.mount_point, name_, made.get(), init);
  for (int again = 0; !result && result.error().code == Code::kAlreadyExists && again < 2; ++again) {
    if (scope_) return {};  // systemd has made it
    // A leaf left behind by a crash may hold limits of old: it is replaced, if nobody lives in it.
    if (!TRY(CgroupEmpty(hierarchy.path))) return result;
    TRY(RemoveCgroup(hierarchy.path));
    result = MakeCgroup(hierarchy.mount_point, name_, made.get(), init);
  }
  return result;
}

Result<> CgroupBase::MakeGroups(bool rootless, Rollback* rollback) {
  std::vector<CgroupHierarchy> kept;
  for (const CgroupHierarchy& hierarchy : hierarchies_) {
    auto made = MakeIn(hierarchy, rollback);
    // Another creator may have removed an empty parent of ours between two steps: once more.
    if (!made && made.error().sys_errno == ENOENT) made = MakeIn(hierarchy, rollback);
    if (!made) {
      int err = made.error().sys_errno;
      if (rootless && (err == EACCES || err == EPERM || err == EROFS)) continue;
      return made;
    }
    kept.push_back(hierarchy);
  }
  hierarchies_ = std::move(kept);
  return {};
}

Result<> CgroupBase::Make(const CgroupOptions& options) {
  if (hierarchies_.empty()) return MakeError(Code::kFailedPrecondition, "no cgroup hierarchy is mounted on this host");
  Rollback rollback;
  if (scope_) {
    TRY(scope_->Start(options.resources));
    rollback.Add([this] { (void)scope_->Stop(Deadline::After(2000)); });
  }
  TRY(MakeGroups(options.rootless, &rollback));
  if (scope_) TRY(Attach(scope_->placeholder()));
  TRY(Settle());
  TRY(ApplyAll(options.resources, /*fresh=*/true));
  rollback.Commit();
  return {};
}

Result<> CgroupBase::Find() {
  std::erase_if(hierarchies_, [](const CgroupHierarchy& one) { return !CgroupPathExists(one.path + "/cgroup.procs"); });
  if (hierarchies_.empty()) return MakeError(Code::kNotFound, "cgroup '{}' does not exist", name_);
  return {};
}

int CgroupBase::CloneIntoFd() {
  const CgroupHierarchy* unified = Unified();
  if (unified == nullptr) return -1;
  if (!unified_fd_) unified_fd_ = UniqueFd(open(unified->path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return unified_fd_.get();
}

Result<UniqueFd> CgroupBase::GroupBelowOf(int pid) {
  const CgroupHierarchy* unified = Unified();
  if (unified != nullptr) {
    std::vector<sys::CgroupMembership> groups = TRY(sys::ReadCgroupMembership(fmt::format("/proc/{}/cgroup", pid)));
    for (const sys::CgroupMembership& one : groups) {
      std::string dir = unified->mount_point + one.path;
      if (one.hierarchy != 0 || !dir.starts_with(unified->path + "/")) continue;
      UniqueFd fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!fd) return ErrnoError("open cgroup '{}'", dir);
      return fd;
    }
  }
  return MakeError(Code::kNotFound, "process {} is in no group below cgroup '{}'", pid, name_);
}

Result<std::vector<int>> CgroupBase::JoinFds() {
  std::vector<int> fds;
  if (join_fds_.empty()) {
    std::vector<UniqueFd> opened;
    for (const CgroupHierarchy& one : hierarchies_) {
      if (one.v2) continue;
      // "tasks", not "cgroup.procs": a thread that moves itself needs no lock of the thread group, which would wait
      // milliseconds for an RCU grace period (cgroup_procs_write_start).
      std::string path = one.path + "/tasks";
      UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
      if (!fd) return ErrnoError("open '{}'", path);
      opened.push_back(std::move(fd));
    }
    join_fds_ = std::move(opened);
  }
  for (const UniqueFd& fd : join_fds_) fds.push_back(fd.get());
  return fds;
}

void CgroupBase::CloseFds() {
  unified_fd_.Reset();
  join_fds_.clear();
  if (scope_) scope_->ReleasePlaceholder();
}

Result<> CgroupBase::Attach(int pid) {
  std::string text = fmt::format("{}", pid);
  for (const CgroupHierarchy& one : hierarchies_) TRY(WriteCgroupFile(one.path + "/cgroup.procs", text));
  return {};
}

Result<> CgroupBase::Carry(const std::vector<CgroupWrite>& writes) {
  std::vector<const CgroupWrite*> again;
  for (const CgroupWrite& write : writes) {
    std::string path = FileOf(write.controller, write.file);
    if (path.empty()) {
      if (write.optional) continue;
      return MakeError(Code::kFailedPrecondition, "this host has no cgroup controller '{}' for '{}'", write.controller, write.file);
    }
    auto done = WriteOne(path, write);
    if (done) continue;
    int err = done.error().sys_errno;
    if (!write.retry_last || (err != EINVAL && err != EBUSY)) return done;
    again.push_back(&write);
  }
  for (const CgroupWrite* write : again) TRY(WriteOne(FileOf(write->controller, write->file), *write));
  return {};
}

Result<> CgroupBase::ApplyAll(const Resources& resources, bool fresh) {
  TRY(Carry(TRY(PlanWrites(resources))));
  if (!resources.devices.empty()) TRY(ApplyDevices(resources.devices, fresh));
  return {};
}

Result<> CgroupBase::Apply(const Resources& resources) {
  if (scope_) TRY(scope_->SetProperties(resources));
  return ApplyAll(resources, /*fresh=*/false);
}

Result<std::vector<int>> CgroupBase::Pids() {
  if (hierarchies_.empty()) return std::vector<int>();
  const CgroupHierarchy* unified = Unified();
  const CgroupHierarchy& main = unified != nullptr ? *unified : hierarchies_.front();
  return CgroupPids(main.path);
}

Result<> CgroupBase::Signal(int signal) {
  if (hierarchies_.empty()) return {};
  const CgroupHierarchy* unified = Unified();
  const CgroupHierarchy& main = unified != nullptr ? *unified : hierarchies_.front();
  return SignalCgroup(main.path, signal);
}

Result<bool> CgroupBase::AllEmpty() {
  for (const CgroupHierarchy& one : hierarchies_) {
    if (!TRY(CgroupEmpty(one.path))) return false;
  }
  return true;
}

Result<> CgroupBase::KillOnce() {
  // cgroup.kill (Linux 5.14) kills forks in flight too, and frozen processes.
  if (const CgroupHierarchy* unified = Unified()) {
    auto killed = WriteCgroupFile(unified->path + "/cgroup.kill", "1");
    if (!killed && killed.error().sys_errno != ENOENT && killed.error().sys_errno != ENODEV) return killed;
  }
  for (const CgroupHierarchy& one : hierarchies_) TRY(SignalCgroup(one.path, SIGKILL));
  return {};
}

Result<> CgroupBase::Kill(Deadline deadline) {
  // Without cgroup.kill a fork bomb outruns the list of its pids, so it is stopped first; SIGKILL waits for the thaw.
  const CgroupHierarchy* unified = Unified();
  bool atomic = unified != nullptr && CgroupPathExists(unified->path + "/cgroup.kill");
  int64_t patience = 20;  // milliseconds for one round; a fork bomb may outlive several
  for (;;) {
    // A group that will not freeze in time is killed as it is, and once more if something got away.
    if (!atomic) (void)Freeze(Deadline::After(std::min<int64_t>(500, deadline.RemainingMillis())));
    TRY(KillOnce());
    TRY(Thaw());
    int64_t left = deadline.RemainingMillis();
    bool empty = TRY(PollUntil(Deadline::After(std::min(left, patience)), [this] { return AllEmpty(); }));
    if (empty) return {};
    if (deadline.Passed()) break;
    patience = std::min<int64_t>(patience * 2, 500);
  }
  std::vector<std::string> left;
  for (int pid : TRY(Pids())) left.push_back(fmt::format("{}", pid));
  if (left.size() > 20) left.resize(20);
  return MakeError(Code::kDeadlineExceeded, "processes of cgroup '{}' do not die: {}", name_,
                   left.empty() ? "unseen ones" : Join(left, " "));
}

Result<> CgroupBase::Delete(Deadline deadline) {
  CloseFds();
  bool killed = false;
  for (const CgroupHierarchy& one : hierarchies_) {
    auto removed = RemoveCgroup(one.path);
    if (removed) continue;
    if (removed.error().code != Code::kFailedPrecondition) return removed;
    if (!killed) TRY(Kill(deadline));
    killed = true;
    // A process that has left the list may hold the group a moment longer (cgroup_exit, css references).
    Result<> last;
    bool gone = TRY(PollUntil(deadline, [&]() -> Result<bool> {
      last = RemoveCgroup(one.path);
      if (!last && last.error().code != Code::kFailedPrecondition) return std::move(last.error());
      return last.has_value();
    }));
    if (!gone) return MakeError(Code::kDeadlineExceeded, "{}", last.error().message);
  }
  if (scope_) TRY(scope_->Stop(deadline));
  return {};
}

}  // namespace caisson::oci

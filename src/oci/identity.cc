// SPDX-License-Identifier: Apache-2.0
#include "oci/identity.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "sys/path.h"
#include "sys/user.h"

namespace caisson::oci {
namespace {

struct CapabilityData {
  __user_cap_data_struct words[2];
};

// struct sched_attr of sched_setattr(2), first version.
struct SchedAttr {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};

Result<uint64_t> PermittedCapabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  CapabilityData data{};
  if (syscall(SYS_capget, &header, data.words) != 0) return ErrnoError("capget");
  return data.words[0].permitted | uint64_t{data.words[1].permitted} << 32;
}

// None unless the spec gives some.
CapabilitySets Wanted(const ProcessSpec& process) { return process.capabilities.value_or(CapabilitySets()); }

Result<> SetRlimits(const std::vector<Rlimit>& limits) {
  for (const auto& limit : limits) {
    rlimit value{limit.soft, limit.hard};
    auto resource = static_cast<__rlimit_resource>(limit.resource);
    if (setrlimit(resource, &value) == 0) continue;
    rlimit now{};
    if (errno != EPERM || getrlimit(resource, &now) != 0)
      return ErrnoError("set rlimit {} to {}:{}", limit.resource, limit.soft, limit.hard);
    // Without CAP_SYS_RESOURCE nobody here can raise a hard limit: as much as there is.
    value.rlim_max = std::min<rlim_t>(limit.hard, now.rlim_max);
    value.rlim_cur = std::min<rlim_t>(limit.soft, value.rlim_max);
    if (setrlimit(resource, &value) != 0)
      return ErrnoError("set rlimit {} to {}:{}", limit.resource, value.rlim_cur, value.rlim_max);
  }
  return {};
}

Result<> SetOomScore(int score) {
  UniqueFd file(open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC));
  if (!file) return ErrnoError("open /proc/self/oom_score_adj");
  std::string text = fmt::format("{}", score);
  if (write(file.get(), text.data(), text.size()) > 0) return {};
  // Lowering it below the runtime's own needs CAP_SYS_RESOURCE: then it stays what the runtime has (proc(5)).
  if (errno == EACCES || errno == EPERM) return {};
  return ErrnoError("set oom_score_adj to {}", score);
}

Result<> EnterDirectory(const std::string& path) {
  if (chdir(path.c_str()) != 0) return ErrnoError("enter working directory '{}'", path);
  // A directory outside the root is not to be had by a name inside: a leaked descriptor was used (CVE-2024-21626).
  char where[limits::kPathBytes];
  // Not getcwd(3), which tries to make up a path where the kernel says there is none.
  if (syscall(SYS_getcwd, where, sizeof where) < 0 || where[0] != '/') {
    return MakeError(Code::kInvalidArgument, "working directory '{}' is outside the container's root", path);
  }
  return {};
}

Result<> DropBounding(uint64_t keep) {
  for (int capability = 0; capability < 64; ++capability) {
    if (keep >> capability & 1) continue;
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0) continue;
    if (errno == EINVAL) return {};  // past the last that this kernel knows
    if (errno == EPERM && prctl(PR_CAPBSET_READ, capability, 0, 0, 0) == 0) continue;
    return ErrnoError("drop capability {} from the bounding set", capability);
  }
  return {};
}

// "All capabilities" means all that we have: asking for more would fail with EPERM.
Result<> SetCapabilities(const CapabilitySets& wanted, uint64_t have) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  CapabilityData data{};
  for (int i = 0; i < 2; ++i) {
    data.words[i].effective = static_cast<uint32_t>((wanted.effective & wanted.permitted & have) >> (32 * i));
    data.words[i].permitted = static_cast<uint32_t>((wanted.permitted & have) >> (32 * i));
    data.words[i].inheritable = static_cast<uint32_t>((wanted.inheritable & have) >> (32 * i));
  }
  if (syscall(SYS_capset, &header, data.words) != 0) return ErrnoError("capset");
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 && errno != EINVAL)
    return ErrnoError("clear ambient capabilities");
  // Only what is permitted and inheritable can be ambient (capabilities(7)); config.md: what cannot be granted is no
  // error.
  uint64_t ambient = wanted.ambient & wanted.inheritable & wanted.permitted & have;
  for (int capability = 0; ambient >> capability != 0; ++capability) {
    if (!(ambient >> capability & 1)) continue;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) != 0)
      return ErrnoError("raise ambient capability {}", capability);
    if (capability == 63) break;
  }
  return {};
}

Result<> Load(const SeccompFilter& filter) {
  if (int failed = LoadSeccomp(filter); failed != 0) return SysError(failed, "load the seccomp filter");
  return {};
}

Result<> WriteLabel(const char* path, const std::string& label, const char* what) {
  if (label.empty()) return {};
  UniqueFd file(open(path, O_WRONLY | O_CLOEXEC));
  if (!file || write(file.get(), label.data(), label.size()) < 0) return ErrnoError("{} '{}'", what, label);
  return {};
}

}  // namespace

Result<> SetAttributes(const ProcessSpec& process) {
  if (process.oom_score_adj) TRY(SetOomScore(*process.oom_score_adj));
  TRY(WriteLabel("/proc/self/attr/exec", process.selinux_label, "SELinux label"));
  TRY(WriteLabel("/proc/self/attr/apparmor/exec",
                 process.apparmor_profile.empty() ? "" : "exec " + process.apparmor_profile, "AppArmor profile"));
  if (process.io_priority) {
    int value = process.io_priority->io_class << 13 | process.io_priority->priority;  // IOPRIO_PRIO_VALUE
    if (syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, value) != 0) return ErrnoError("set the I/O priority");
  }
  if (!process.scheduler) return {};
  const Scheduler& wanted = *process.scheduler;
  SchedAttr attr{sizeof attr,     wanted.policy,  wanted.flags,    wanted.nice,
                 wanted.priority, wanted.runtime, wanted.deadline, wanted.period};
  if (syscall(SYS_sched_setattr, 0, &attr, 0) != 0) return ErrnoError("set the scheduling policy");
  return {};
}

Result<> RaiseHardLimits(const std::vector<Rlimit>& limits) {
  for (const auto& limit : limits) {
    auto resource = static_cast<__rlimit_resource>(limit.resource);
    rlimit now{};
    if (getrlimit(resource, &now) != 0) return ErrnoError("read rlimit {}", limit.resource);
    if (limit.hard <= now.rlim_max) continue;
    now.rlim_max = limit.hard;
    if (setrlimit(resource, &now) != 0 && errno != EPERM)
      return ErrnoError("raise rlimit {} to {}", limit.resource, limit.hard);
  }
  return {};
}

Result<> ResolveUser(int root_fd, ProcessSpec* process) {
  if (process->username.empty()) return {};
  sys::UserRequest request;
  request.user = process->username;
  if (process->gid_given) request.gid = process->gid;
  request.supplemental = process->additional_gids;
  request.merge_groups = !process->strict_groups;
  auto user = TRY(sys::ResolveUser(root_fd, request));
  process->uid = user.uid;
  process->gid = user.gid;
  process->additional_gids = std::move(user.groups);
  return {};
}

Result<> BecomeUser(const ProcessSpec& process, const SeccompFilter* filter) {
  TRY(SetRlimits(process.rlimits));
  umask(process.umask.value_or(0022));
  // As root first: the user may be kept out of a folder above. Some file systems (root squash) want the user instead.
  auto entered = EnterDirectory(process.cwd);
  if (!entered && entered.error().sys_errno != EACCES) return entered;

  uint64_t have = TRY(PermittedCapabilities());
  TRY(DropBounding(Wanted(process).bounding));
  if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return ErrnoError("keep capabilities");
  if (process.keep_groups && !process.additional_gids.empty())
    return MakeError(Code::kInvalidArgument, "process.user.additionalGids cannot be without privileges on the host");
  if (!process.keep_groups && setgroups(process.additional_gids.size(), process.additional_gids.data()) != 0)
    return ErrnoError("set {} supplementary groups", process.additional_gids.size());
  if (setresgid(process.gid, process.gid, process.gid) != 0) return ErrnoError("become group {}", process.gid);
  if (setresuid(process.uid, process.uid, process.uid) != 0) return ErrnoError("become user {}", process.uid);
  prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
  // Without no_new_privs loading a filter needs CAP_SYS_ADMIN (seccomp(2)), so then they are kept until FinishProcess.
  bool needed = filter != nullptr && !process.no_new_privileges;
  if (!needed) TRY(SetCapabilities(Wanted(process), have));
  if (!entered) TRY(EnterDirectory(process.cwd));
  if (process.no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return ErrnoError("set no_new_privs");
  return {};
}

Result<> FinishProcess(const ProcessSpec& process, const SeccompFilter* filter) {
  if (filter == nullptr) return {};
  if (process.no_new_privileges) return Load(*filter);
  uint64_t have = TRY(PermittedCapabilities());
  CapabilitySets all;
  all.effective = all.permitted = have;  // becoming a user has emptied the effective set
  TRY(SetCapabilities(all, have));
  TRY(Load(*filter));
  return SetCapabilities(Wanted(process), have);
}

std::vector<std::string> CompleteEnvironment(int root_fd, const ProcessSpec& process) {
  std::vector<std::string> env = process.env;
  for (const auto& variable : env) {
    if (variable.starts_with("HOME=")) return env;
  }
  // A passwd that cannot be read, or is huge, says nothing.
  auto passwd = sys::ReadUserFile(root_fd, "/etc/passwd");
  env.push_back("HOME=" + (passwd ? sys::HomeOf(process.uid, *passwd) : "/"));
  return env;
}

Result<> CheckProgram(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    // Who may not look may still execute, with the rights that it has by then.
    if (errno == ENOENT || errno == ENOTDIR) return ErrnoError("exec '{}'", path);
    return {};
  }
  if (!S_ISREG(info.st_mode) || (info.st_mode & 0111) == 0) return SysError(EACCES, fmt::format("exec '{}'", path));
  return {};
}

Result<std::string> FindProgram(const std::string& name, const std::vector<std::string>& env) {
  if (name.empty()) return MakeError(Code::kInvalidArgument, "the program's name is empty");
  if (name.find('/') != std::string::npos) return name;
  std::string path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  for (const auto& variable : env) {
    if (variable.starts_with("PATH=")) path = variable.substr(5);
  }
  bool denied = false;
  for (std::string_view folder : Split(path, ':')) {
    std::string candidate = (folder.empty() ? "." : std::string(folder)) + "/" + name;
    struct stat info {};
    if (stat(candidate.c_str(), &info) != 0 || S_ISDIR(info.st_mode)) continue;
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
    denied = true;
  }
  if (denied) return MakeError(Code::kPermissionDenied, "exec '{}': found in PATH but not executable", name);
  return MakeError(Code::kNotFound, "exec '{}': executable file not found in PATH", name);
}

}  // namespace caisson::oci

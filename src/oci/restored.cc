// SPDX-License-Identifier: Apache-2.0
#include "oci/restored.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <set>

#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "sys/path.h"

namespace caisson::oci {
namespace {

constexpr size_t kStatusBytes = 64 << 10;

// Also for what the kernel does not tell, which is no reason to believe it.
template <class... Args>
Error Refuse(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(Code::kPermissionDenied, "the checkpoint is not restored: {}", fmt::format(format, std::forward<Args>(args)...));
}

Result<std::string> ReadLink(const std::string& path) {
  char target[4096];
  ssize_t length = readlink(path.c_str(), target, sizeof target);
  if (length < 0 || length == static_cast<ssize_t>(sizeof target)) return ErrnoError("read link '{}'", path);
  return std::string(target, static_cast<size_t>(length));
}

Result<std::vector<std::string>> List(const std::string& path) {
  std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()), closedir);
  if (!folder) return ErrnoError("read '{}'", path);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(folder.get())) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  return names;
}

std::string_view Field(std::string_view text, std::string_view name) {
  for (std::string_view line : Split(text, '\n')) {
    if (line.starts_with(name) && line.substr(name.size()).starts_with(':')) return Trim(line.substr(name.size() + 1));
  }
  return {};
}

Result<uint64_t> Number(std::string_view text, std::string_view name, int base) {
  std::string_view word = Field(text, name);
  uint64_t number = 0;
  auto [end, failed] = std::from_chars(word.data(), word.data() + word.size(), number, base);
  if (word.empty() || failed != std::errc() || end != word.data() + word.size()) return Refuse("the kernel does not tell its {}", name);
  return number;
}

Result<std::set<uint32_t>> IdsOf(std::string_view text, std::string_view name) {
  std::set<uint32_t> ids;
  std::string line(Field(text, name));
  std::replace(line.begin(), line.end(), '\t', ' ');
  for (std::string_view word : Split(line, ' ')) {
    if (word.empty()) continue;
    ids.insert(static_cast<uint32_t>(TRY(ParseUint64(word))));
  }
  return ids;
}

std::set<std::string> Restrictions(const sys::MountInfo& mount) {
  std::set<std::string> words;
  for (std::string_view word : Split(mount.options, ',')) {
    if (word == "ro" || word == "nosuid" || word == "nodev" || word == "noexec") words.emplace(word);
  }
  return words;
}

Result<> CompareMount(const sys::MountInfo& wanted, const sys::MountInfo& found) {
  const std::string& at = found.mount_point;
  // Of the new PID namespace, which the restorer is not in.
  bool same_device = wanted.fs_type == "proc" || (wanted.major == found.major && wanted.minor == found.minor);
  if (found.fs_type != wanted.fs_type || found.root != wanted.root || !same_device) {
    return Refuse("on '{}' it has '{}' of a {}, the container's is '{}' of a {}", at, found.root, found.fs_type, wanted.root, wanted.fs_type);
  }
  auto has = Restrictions(found);
  for (const std::string& word : Restrictions(wanted)) {
    if (!has.contains(word)) return Refuse("its mount on '{}' is not {}", at, word);
  }
  return {};
}

class Checker {
 public:
  Checker(const Expected& expected, int init) : expected_(expected), init_(init) {}

  Result<> Check(const std::vector<int>& pids) {
    TRY(CheckNamespaces());
    auto mounts = TRY(sys::ReadMountInfo(fmt::format("/proc/{}/mountinfo", init_)));
    TRY(CompareMounts(TRY(sys::ReadMountInfo(fmt::format("/proc/{}/mountinfo", expected_.restorer))), expected_.root_path, mounts));
    for (const auto& mount : mounts) mounts_.insert(mount.id);
    bool found = false;
    for (int pid : pids) {
      if (pid == expected_.restorer) continue;
      found |= pid == init_;
      TRY(CheckProcess(pid));
    }
    if (!found) return Refuse("process {} is not in the container's cgroup", init_);
    return {};
  }

 private:
  // The restorer is in the pod's and the container's namespaces but for two, which the container has of its own.
  Result<> CheckNamespaces() {
    for (const char* kind : {"mnt", "pid", "net", "ipc", "uts", "cgroup", "user"}) {
      std::string of_init = TRY(ReadLink(fmt::format("/proc/{}/ns/{}", init_, kind)));
      bool same = of_init == TRY(ReadLink(fmt::format("/proc/{}/ns/{}", expected_.restorer, kind)));
      bool own = kind == std::string_view("mnt") || kind == std::string_view("pid");
      if (same == own) return Refuse("its {} namespace is {}", kind, own ? "not its own" : "not that of the pod");
      namespaces_[kind] = of_init;
    }
    return {};
  }

  Result<> CheckProcess(int pid) {
    const std::string proc = fmt::format("/proc/{}/", pid);
    for (const auto& [kind, link] : namespaces_) {
      if (TRY(ReadLink(proc + "ns/" + kind)) != link) return Refuse("process {} has a {} namespace of its own", pid, kind);
    }
    for (const std::string& task : TRY(List(proc + "task"))) {
      auto checked = CheckCredentials(expected_.spec.process, expected_.filtered, TRY(sys::ReadFile(proc + "task/" + task + "/status", kStatusBytes)));
      if (!checked) return std::move(checked.error()).Within(fmt::format("process {}", pid));
    }
    for (const char* name : {"root", "cwd", "exe"}) TRY(CheckOpened(proc + name, name));
    for (const std::string& range : TRY(List(proc + "map_files"))) TRY(CheckOpened(proc + "map_files/" + range, "a mapped file"));
    for (const std::string& number : TRY(List(proc + "fd"))) {
      if (!TRY(IsFile(proc + "fd/" + number)) || IsNull(proc + "fd/" + number)) continue;
      TRY(CheckMount(TRY(sys::ReadFile(proc + "fdinfo/" + number, kStatusBytes)), proc + "fd/" + number));
    }
    return {};
  }

  // Neither a pipe nor a socket nor memory without a name, all of which have no place in the tree.
  static Result<bool> IsFile(const std::string& link) {
    std::string target = TRY(ReadLink(link));
    return target.starts_with('/') && !target.starts_with("/memfd:") && !target.starts_with("/SYSV") && target != "/dev/zero (deleted)";
  }

  // The host's null device is what a container has for stdio that nobody wanted.
  static bool IsNull(const std::string& link) {
    struct stat info {};
    return stat(link.c_str(), &info) == 0 && S_ISCHR(info.st_mode) && info.st_rdev == makedev(1, 3);
  }

  // Through a link of proc(5), which leads to the thing itself and not along its path.
  Result<> CheckOpened(const std::string& link, const char* what) {
    if (!TRY(IsFile(link))) return {};
    UniqueFd fd(open(link.c_str(), O_PATH | O_CLOEXEC));
    if (!fd) return ErrnoError("open '{}'", link);
    return CheckMount(TRY(sys::ReadFile(fmt::format("/proc/self/fdinfo/{}", fd.get()), kStatusBytes)), what);
  }

  Result<> CheckMount(std::string_view fdinfo, std::string_view what) {
    if (mounts_.contains(static_cast<int64_t>(TRY(Number(fdinfo, "mnt_id", 10))))) return {};
    return Refuse("{} is outside the container", what);
  }

  const Expected& expected_;
  const int init_;
  std::map<std::string, std::string> namespaces_;
  std::set<int64_t> mounts_;
};

}  // namespace

Result<> CheckRestorable(const Spec& spec, const Plan& plan) {
  auto refuse = [](const char* why) { return MakeError(Code::kFailedPrecondition, "it cannot be restored from a checkpoint: {}", why); };
  if (spec.process.terminal) return refuse("it has a terminal");
  if (plan.new_user_namespace || !plan.user_namespace.empty()) return refuse("it is in a user namespace");
  if (!(plan.clone_flags & CLONE_NEWPID)) return refuse("it has no PID namespace of its own");
  for (const auto* hooks : {&spec.hooks.prestart, &spec.hooks.create_runtime, &spec.hooks.create_container, &spec.hooks.start_container,
                            &spec.hooks.poststart, &spec.hooks.poststop}) {
    if (!hooks->empty()) return refuse("it has hooks");
  }
  return {};
}

Result<> CompareMounts(const std::vector<sys::MountInfo>& expected, const std::string& root_path, const std::vector<sys::MountInfo>& restored) {
  // Of two on one place the last is seen.
  std::map<std::string, const sys::MountInfo*> wanted, found;
  for (const auto& mount : expected) {
    if (mount.mount_point == root_path) wanted["/"] = &mount;
    if (mount.mount_point.starts_with(root_path + "/")) wanted[mount.mount_point.substr(root_path.size())] = &mount;
  }
  for (const auto& mount : restored) found[mount.mount_point] = &mount;
  for (const auto& [path, mount] : found) {
    auto at = wanted.find(path);
    if (at == wanted.end()) return Refuse("the container has no mount on '{}'", path);
    TRY(CompareMount(*at->second, *mount));
  }
  for (const auto& [path, mount] : wanted) {
    if (!found.contains(path)) return Refuse("it lacks the container's mount on '{}'", path);
  }
  return {};
}

Result<> CheckCredentials(const ProcessSpec& process, bool filtered, std::string_view status) {
  const CapabilitySets may = process.capabilities.value_or(CapabilitySets());
  const bool root = process.uid == 0;
  // A user that is not root may get capabilities of the bounding set by a program's file only, and then only if it may.
  const uint64_t most = root || !process.no_new_privileges ? may.bounding : may.permitted;
  for (auto [name, limit] : {std::pair("CapBnd", may.bounding), {"CapPrm", most}, {"CapEff", most}, {"CapInh", may.bounding}, {"CapAmb", most}}) {
    uint64_t has = TRY(Number(status, name, 16));
    if (has & ~limit) return Refuse("{} is {:#x}, the container's is {:#x}", name, has, limit);
  }
  if (process.no_new_privileges && TRY(Number(status, "NoNewPrivs", 10)) != 1) return Refuse("it may gain privileges");
  if (filtered && TRY(Number(status, "Seccomp", 10)) != 2) return Refuse("it has no seccomp filter");
  if (root) return {};  // which may become whoever it likes
  std::set<uint32_t> groups(process.additional_gids.begin(), process.additional_gids.end());
  groups.insert(process.gid);
  for (uint32_t uid : TRY(IdsOf(status, "Uid"))) {
    if (uid != process.uid) return Refuse("it is of user {}, the container's is {}", uid, process.uid);
  }
  for (const char* name : {"Gid", "Groups"}) {
    for (uint32_t gid : TRY(IdsOf(status, name))) {
      if (!groups.contains(gid)) return Refuse("it has the group {}", gid);
    }
  }
  return {};
}

Result<> CheckRestored(const Expected& expected, int init, const std::vector<int>& pids) { return Checker(expected, init).Check(pids); }

}  // namespace caisson::oci

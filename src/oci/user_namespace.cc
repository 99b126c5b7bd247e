// SPDX-License-Identifier: Apache-2.0
#include "oci/user_namespace.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "base/clock.h"
#include "base/scope_exit.h"
#include "oci/bind.h"
#include "oci/clone.h"
#include "oci/control.h"

namespace caisson::oci {
namespace {

constexpr int64_t kReadyMillis = 10'000;

Result<> WriteMap(int pid, const char* name, const std::vector<IdMapping>& mappings) {
  std::string path = fmt::format("/proc/{}/{}", pid, name), text = FormatIdMappings(mappings);
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  // In one write (user_namespaces(7)).
  if (file && write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) return {};
  return ErrnoError("write '{}'", path);
}

Result<UniqueFd> OpenOf(int pid, const char* name) {
  std::string path = fmt::format("/proc/{}/ns/{}", pid, name);
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return ErrnoError("open '{}'", path);
  return fd;
}

// The child of MakeUserNamespace: in the new namespaces, as nobody it knows, until the maps are written.
[[noreturn]] void LiveInside(int control, unsigned long flags, const std::function<Result<>()>& inside) {
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  auto word = Receive(control, Deadline::After(kReadyMillis));
  if (!word || word->signal != Signal::kMapped) _exit(127);
  Result<> done;
  // Nobody needs a root where nothing is to be made: maps for mounts may have none. Else what is made is its own, as the
  // root of the IPC namespace's mqueue.
  if (flags != 0 || inside) done = BecomeNamespaceRoot();
  if (done && flags != 0 && unshare(static_cast<int>(flags)) != 0) done = ErrnoError("make namespaces {:#x}", flags);
  if (done && inside) done = inside();
  auto sent = done ? SendSignal(control, Signal::kReady) : SendFailure(control, done.error());
  // Held open by descriptors from now on; until they are open it is we who hold them.
  if (sent) (void)Receive(control, Deadline::After(kReadyMillis));
  _exit(0);
}

Result<NewNamespaces> SetUp(int pid, int control, const IdMaps& maps, unsigned long flags) {
  TRY(WriteMap(pid, "uid_map", maps.uids));
  TRY(WriteMap(pid, "gid_map", maps.gids));
  TRY(SendSignal(control, Signal::kMapped));
  auto word = TRY(Receive(control, Deadline::After(kReadyMillis)));
  if (word.signal != Signal::kReady) return MakeError(Code::kAborted, "the maker of a user namespace was killed");
  NewNamespaces made;
  made.user = TRY(OpenOf(pid, "user"));
  if (flags & CLONE_NEWNET) made.network = TRY(OpenOf(pid, "net"));
  if (flags & CLONE_NEWIPC) made.ipc = TRY(OpenOf(pid, "ipc"));
  if (flags & CLONE_NEWUTS) made.uts = TRY(OpenOf(pid, "uts"));
  return made;
}

// What the root file system of a pod with a user namespace needs, in a mount namespace of its own.
Result<> MountMapped(const std::string& folder, int user_namespace) {
  if (unshare(CLONE_NEWNS) != 0) return ErrnoError("make a mount namespace");
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return ErrnoError("make mounts private");
  UniqueFd lower = TRY(CloneTree(AT_FDCWD, folder + "/lower", false));
  TRY(MapIds(lower.get(), user_namespace, false));
  UniqueFd at(open((folder + "/lower").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!at) return ErrnoError("open '{}/lower'", folder);
  TRY(AttachTree(lower.get(), at.get(), MountPlan{}));
  std::string data = fmt::format("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", folder);
  std::string merged = folder + "/merged";
  if (mount("overlay", merged.c_str(), "overlay", 0, data.c_str()) != 0)
    return ErrnoError("mount an overlay over an id-mapped folder");
  struct stat info {};
  if (stat((merged + "/file").c_str(), &info) != 0) return ErrnoError("look at an id-mapped file through an overlay");
  if (info.st_uid == 1 && info.st_gid == 1) return {};
  return MakeError(Code::kFailedPrecondition, "the overlay does not pass the mapped ids on");
}

Result<> MakeProbeFolder(const std::string& folder) {
  for (const char* name : {"lower", "upper", "work", "merged"}) {
    std::string path = folder + "/" + name;
    if (mkdir(path.c_str(), 0700) != 0) return ErrnoError("make '{}'", path);
  }
  std::string path = folder + "/lower/file";
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) return ErrnoError("make '{}'", path);
  return {};
}

void RemoveProbeFolder(const std::string& folder) {
  unlink((folder + "/lower/file").c_str());
  for (const char* name : {"/lower", "/upper", "/work/work", "/work", "/merged", ""}) rmdir((folder + name).c_str());
}

// Runs `work` in a child of its own.
Result<> InChild(const std::function<Result<>()>& work) {
  auto control = TRY(MakeControlPair());
  auto child = TRY(Clone(0, -1));
  if (child.pid == 0) {
    control.parent.Reset();
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    auto done = work();
    (void)(done ? SendSignal(control.child.get(), Signal::kReady) : SendFailure(control.child.get(), done.error()));
    _exit(0);
  }
  ScopeExit reap([&] { KillAndReap(child.pidfd.get()); });
  control.child.Reset();
  auto word = TRY(Receive(control.parent.get(), Deadline::After(kReadyMillis)));
  if (word.signal == Signal::kReady) return {};
  return MakeError(Code::kAborted, "a child ended before it was done (killed?)");
}

}  // namespace

Result<UniqueFd> CloneInUserNamespace(int user_namespace, unsigned long flags, const std::function<void()>& run, bool keep_groups,
                                      int pid_namespace) {
  auto control = TRY(MakeControlPair());
  auto outer = TRY(Clone(0, -1));
  if (outer.pid == 0) {
    control.parent.Reset();
    auto entered = EnterUserNamespace(user_namespace, keep_groups);
    if (entered && pid_namespace >= 0 && setns(pid_namespace, CLONE_NEWPID) != 0) entered = ErrnoError("enter the PID namespace");
    Result<Cloned> inner = entered ? Clone(flags | CLONE_PARENT, -1) : Result<Cloned>(std::move(entered.error()));
    if (inner && inner->pid == 0) {
      control.child.Reset();
      run();
      _exit(127);
    }
    auto sent = inner ? SendSignal(control.child.get(), Signal::kChild, inner->pidfd.get())
                      : SendFailure(control.child.get(), inner.error());
    if (!sent && inner) KillAndReap(inner->pidfd.get());
    _exit(0);
  }
  ScopeExit reap([&] { KillAndReap(outer.pidfd.get()); });
  control.child.Reset();
  auto word = TRY(Receive(control.parent.get(), Deadline::After(kReadyMillis)));
  if (word.signal != Signal::kChild) return MakeError(Code::kAborted, "a child ended before it was done (killed?)");
  return std::move(word.fd);
}

Result<> BecomeNamespaceRoot(bool keep_groups) {
  if ((!keep_groups && setgroups(0, nullptr) != 0) || setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0)
    return ErrnoError("become root of the user namespace");
  return {};
}

Result<> EnterUserNamespace(int user_namespace, bool keep_groups) {
  if (setns(user_namespace, CLONE_NEWUSER) != 0) return ErrnoError("join the user namespace");
  return BecomeNamespaceRoot(keep_groups);
}

Result<NewNamespaces> MakeUserNamespace(const IdMaps& maps, unsigned long flags,
                                        const std::function<Result<>()>& inside) {
  TRY(CheckIdMappings(maps.uids, "the mapping of user ids"));
  TRY(CheckIdMappings(maps.gids, "the mapping of group ids"));
  auto control = TRY(MakeControlPair());
  auto child = Clone(CLONE_NEWUSER, -1);
  if (!child && child.error().sys_errno == ENOSPC)  // user_namespaces(7)
    return MakeError(Code::kFailedPrecondition, "make a user namespace: sysctl user.max_user_namespaces allows no more");
  if (!child) return std::move(child.error()).Within("make a user namespace");
  if (child->pid == 0) {
    control.parent.Reset();
    LiveInside(control.child.get(), flags, inside);
  }
  ScopeExit reap([&] { KillAndReap(child->pidfd.get()); });
  control.child.Reset();
  return SetUp(child->pid, control.parent.get(), maps, flags);
}

int MappingNamespaces::Find(const IdMaps& maps) const {
  for (const auto& one : all_) {
    if (one.maps == maps) return one.fd.get();
  }
  return -1;
}

Result<> MappingNamespaces::Make(const IdMaps& maps) {
  if (Find(maps) >= 0) return {};
  Add(maps, std::move(TRY(MakeUserNamespace(maps, 0, nullptr)).user));
  return {};
}

Result<> ProbeUserNamespaces(const std::string& folder) {
  std::string path = folder + "/probe-XXXXXX";
  if (mkdtemp(path.data()) == nullptr) return ErrnoError("make a folder in '{}'", folder);
  ScopeExit remove([&] { RemoveProbeFolder(path); });
  TRY(MakeProbeFolder(path));
  auto probed = [&]() -> Result<> {
    auto made = TRY(MakeUserNamespace({{{0, 1, 1}}, {{0, 1, 1}}}, 0, nullptr));
    return InChild([&] { return MountMapped(path, made.user.get()); });
  }();
  if (!probed && probed.error().code != Code::kFailedPrecondition) probed.error().code = Code::kFailedPrecondition;
  return probed;
}

}  // namespace caisson::oci

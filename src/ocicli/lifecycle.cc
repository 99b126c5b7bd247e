// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/limits.h"
#include "base/scope_exit.h"
#include "oci/hooks.h"
#include "ocicli/command.h"
#include "ocicli/stdio.h"
#include "sys/new_file.h"
#include "sys/path.h"

namespace caisson::ocicli {
namespace {

// What `create` and `run` make.
struct Made {
  Folder folder;
  Record record;
  std::unique_ptr<oci::Container> container;
};

Result<std::string> AbsolutePath(const std::string& path) {
  char* real = realpath(path.c_str(), nullptr);
  if (real == nullptr) return ErrnoError("bundle '{}'", path);
  std::string absolute = real;
  free(real);
  return absolute;
}

std::string OwnerName() { return geteuid() == 0 ? "root" : fmt::format("{}", geteuid()); }

Result<oci::CreateOptions> ReadBundle(const Context& context, const Flags& flags, const std::string& id, bool detached, std::string* config) {
  oci::CreateOptions options;
  options.id = id;
  options.bundle = TRY(AbsolutePath(flags.Given("bundle") ? flags.Text("bundle") : "."));
  *config = TRY(sys::ReadFile(options.bundle + "/config.json", limits::kJsonBytes));
  auto spec = oci::ParseSpec(*config);
  if (!spec) return std::move(spec.error()).Within(fmt::format("'{}/config.json'", options.bundle));
  options.spec = std::move(*spec);
  if (flags.On("no-pivot")) return MakeError(Code::kUnimplemented, "--no-pivot is not supported");
  TRY(CheckConsole(flags, options.spec.process.terminal, detached));
  // No container is without a group of its own: it is how its processes are found.
  if (options.spec.cgroups_path.empty())
    options.spec.cgroups_path = context.systemd_cgroup ? fmt::format("system.slice:caisson-oci:{}", id) : "/caisson-oci-" + id;
  options.systemd_cgroup = context.systemd_cgroup;
  options.seccomp_cache_dir = context.seccomp_cache();
  options.die_with_parent = false;
  options.rootless = context.rootless;
  options.new_session_keyring = !flags.On("no-new-keyring");
  options.preserve_fds = TRY(PreservedDescriptors(flags, &options.spec.process.env));
  if (!detached) TakeTerminalSize(&options.spec.process);
  if (!options.spec.process.terminal) options.stdio = TRY(OwnStdio());
  return options;
}

Record NewRecord(const Context& context, const oci::CreateOptions& options) {
  Record record;
  record.id = options.id;
  record.bundle = options.bundle;
  const std::string& root = options.spec.root_path;
  record.rootfs = root.starts_with('/') ? root : options.bundle + "/" + root;
  record.created = FormatRfc3339Nano(NowNanos());
  record.creator = MarkOf(getpid());
  record.cgroup = options.spec.cgroups_path;
  record.systemd_cgroup = context.systemd_cgroup;
  record.rootless = context.rootless;
  const oci::NamespaceSpec* pids = options.spec.FindNamespace(CLONE_NEWPID);
  record.own_pid_namespace = pids != nullptr && pids->path.empty();
  record.owner = OwnerName();
  record.annotations = options.spec.annotations;
  return record;
}

// After it: the init waits, and everything is written down. On failure nothing is left.
Result<Made> Make(const Context& context, const Flags& flags, const std::string& id, bool detached) {
  if (!IsSafeName(id)) return MakeError(Code::kInvalidArgument, "container id '{}' cannot be one", id.substr(0, 128));
  std::string config;
  oci::CreateOptions options = TRY(ReadBundle(context, flags, id, detached, &config));
  bool terminal = options.spec.process.terminal;
  Made made{context.FolderOf(id), NewRecord(context, options), nullptr};
  TRY(made.folder.Make());
  Rollback rollback;
  rollback.Add([&made] { (void)made.folder.Remove(); });
  TRY(made.folder.WriteConfig(config));
  TRY(made.folder.Write(made.record));
  options.gate = TRY(made.folder.ListenAtGate());
  options.check_program = true;  // `start` may be told nothing but that it could not
  made.container = TRY(oci::Container::Create(std::move(options)));
  rollback.Add([&made] { (void)made.container->Delete(kDeadlineMillis); });
  if (terminal && detached) {
    TRY(SendConsole(flags.Text("console-socket"), made.container->init().console.get()));
    made.container->mutable_init()->console.Reset();
  }
  made.record.init = MarkOf(made.container->init().pid);
  if (made.record.init.pid == 0) return MakeError(Code::kAborted, "container '{}': init has ended before it was started", id);
  TRY(made.folder.Write(made.record));
  if (flags.Given("pid-file")) {
    std::string path = flags.Text("pid-file");
    TRY(sys::ReplaceFile(path, std::to_string(made.record.init.pid), 0644));
    rollback.Add([path] { unlink(path.c_str()); });
  }
  rollback.Commit();
  return made;
}

// After a failure past Make.
void GiveUp(const Flags& flags, Made* made) {
  (void)made->container->Delete(kDeadlineMillis);
  (void)made->folder.Remove();
  if (flags.Given("pid-file")) unlink(flags.Text("pid-file").c_str());
}

std::string HookStateOf(const Record& record, Status status) {
  oci::CreateOptions container;
  container.id = record.id;
  container.bundle = record.bundle;
  container.spec.annotations = record.annotations;
  return oci::HookState(container, NameOf(status), status == Status::kStopped ? 0 : record.init.pid);
}

// A poststop hook that fails is told of, no more (runtime.md "Lifecycle").
void RunPoststopHooks(const Context& context, const Record& record, const std::vector<oci::Hook>& hooks) {
  for (const oci::Hook& hook : hooks) {
    auto done = oci::RunHooks({hook}, HookStateOf(record, Status::kStopped));
    if (!done) context.report.Warn(fmt::format("container '{}': poststop {}", record.id, done.error().message));
  }
}

Result<> AwaitEnd(const UniqueFd& pidfd, const std::string& what) {
  if (!pidfd) return {};
  pollfd ended{pidfd.get(), POLLIN, 0};
  for (Deadline deadline = Deadline::After(kDeadlineMillis);;) {
    int ready = poll(&ended, 1, deadline.RemainingMillis());
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return ErrnoError("wait for {}", what);
    if (ready == 0) return MakeError(Code::kDeadlineExceeded, "{} does not end", what);
  }
}

Result<> EndProcess(const ProcessMark& mark, const std::string& what) {
  UniqueFd pidfd = OpenProcess(mark);
  if (!pidfd) return {};
  if (syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0) != 0 && errno != ESRCH) return ErrnoError("kill {}", what);
  return AwaitEnd(pidfd, what);
}

// Of a `create` that was killed: its init, if there was one, ends by itself as soon as it notices. What else may be in a
// group of that name is not ours to end.
Result<> RemoveHalfMade(const Found& found) {
  if (found.record.cgroup.empty()) return {};
  auto cgroup = OpenCgroup(found.record);
  if (!cgroup && cgroup.error().code == Code::kNotFound) return {};
  if (!cgroup) return std::move(cgroup.error());
  for (Deadline deadline = Deadline::After(kDeadlineMillis);;) {
    std::vector<int> pids = TRY((*cgroup)->Pids());
    if (pids.empty()) break;
    for (int pid : pids) {
      UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
      pollfd ended{pidfd ? pidfd.get() : -1, POLLIN, 0};
      if (pidfd && poll(&ended, 1, deadline.RemainingMillis()) == 0)
        return MakeError(Code::kFailedPrecondition, "container '{}' is half made and process {} in its cgroup does not end", found.record.id, pid);
    }
    if (deadline.Passed()) return MakeError(Code::kDeadlineExceeded, "the cgroup of container '{}' does not become empty", found.record.id);
  }
  return (*cgroup)->Delete(Deadline::After(kDeadlineMillis));
}

Result<> EndInit(const Found& found) {
  if (found.status == Status::kPaused) TRY(TRY(OpenCgroup(found.record))->Thaw());
  return EndProcess(found.record.init, fmt::format("the init of container '{}'", found.record.id));
}

Result<> RemoveFound(const Context& context, const Found& found) {
  if (found.record.init.pid == 0) {
    TRY(RemoveHalfMade(found));
    return found.folder.Remove();
  }
  oci::Hooks hooks;
  auto container = TRY(Open(context, found, false, &hooks));
  TRY(container->Delete(kDeadlineMillis));
  TRY(found.folder.Remove());
  RunPoststopHooks(context, found.record, hooks.poststop);
  return {};
}

}  // namespace

Result<> DeleteContainer(const Context& context, const std::string& id, bool force) {
  Folder folder = context.FolderOf(id);
  auto found = Find(context, id);
  if (!found) {
    if (force && found.error().code == Code::kNotFound) return {};
    if (found.error().code == Code::kDataLoss) return folder.Remove();
    return std::move(found.error());
  }
  switch (found->status) {
    case Status::kCreating:
      if (!force) return MakeError(Code::kFailedPrecondition, "container '{}' is being created by process {}", id, found->record.creator.pid);
      TRY(EndProcess(found->record.creator, fmt::format("the command that creates container '{}'", id)));
      found = Find(context, id);
      if (!found) return found.error().code == Code::kNotFound ? Result<>() : std::move(found.error());
      if (found->record.init.pid != 0) TRY(EndInit(*found));
      break;
    case Status::kRunning:
    case Status::kPaused:
      if (!force) return MakeError(Code::kFailedPrecondition, "cannot delete container '{}' that is not stopped: {}", id, NameOf(found->status));
      TRY(EndInit(*found));
      break;
    case Status::kCreated: TRY(EndInit(*found)); break;
    case Status::kStopped: break;
  }
  return RemoveFound(context, *found);
}

Result<int> Create(const Context& context, const Flags& flags) {
  Made made = TRY(Make(context, flags, flags.words()[0], true));
  auto released = made.container->Release();
  if (released) return 0;
  GiveUp(flags, &made);
  return std::move(released.error());
}

Result<int> Start(const Context& context, const Flags& flags) {
  Found found = TRY(Find(context, flags.words()[0]));
  if (found.status != Status::kCreated) {
    return MakeError(Code::kFailedPrecondition, "cannot start container '{}': it is {}, not created", found.record.id, NameOf(found.status));
  }
  oci::Hooks hooks;
  auto container = TRY(Open(context, found, true, &hooks));
  TRY(container->Start());
  auto hooked = oci::RunHooks(hooks.poststart, HookStateOf(found.record, Status::kRunning));
  if (hooked) return 0;
  (void)EndInit(found);  // runtime.md "Lifecycle": it is stopped
  return std::move(hooked.error());
}

Result<int> Run(const Context& context, const Flags& flags) {
  bool detached = flags.On("detach");
  if (!detached) HoldSignals();
  Made made = TRY(Make(context, flags, flags.words()[0], detached));
  auto started = made.container->Start();
  if (!started) {
    GiveUp(flags, &made);
    return std::move(started.error());
  }
  if (detached) return 0;
  auto code = WaitInForeground(made.container->init());
  if (flags.On("keep")) return code;
  auto deleted = DeleteContainer(context, made.record.id, true);
  if (!deleted) return std::move(deleted.error());
  return code;
}

Result<int> Delete(const Context& context, const Flags& flags) {
  TRY(DeleteContainer(context, flags.words()[0], flags.On("force")));
  return 0;
}

Result<int> Kill(const Context& context, const Flags& flags) {
  const std::vector<std::string>& words = flags.words();
  std::string text = words.size() > 1 ? words[1] : flags.Given("signal") ? flags.Text("signal") : "SIGTERM";
  int signal = TRY(SignalNumber(text));
  Found found = TRY(Find(context, words[0]));
  // Without a PID namespace of its own its processes outlive the init.
  bool all = flags.On("all") || (signal == SIGKILL && !found.record.own_pid_namespace);
  bool ended = found.status == Status::kStopped || found.status == Status::kCreating;
  // containerd and Docker know these words.
  if (ended && !flags.On("all")) return MakeError(Code::kFailedPrecondition, "container not running: '{}' is {}", found.record.id, NameOf(found.status));
  if (all) {
    auto cgroup = OpenCgroup(found.record);
    // systemd has removed the scope in which nobody is any more.
    if (!cgroup && ended && cgroup.error().code == Code::kNotFound) return 0;
    if (!cgroup) return std::move(cgroup.error());
    if (signal == SIGKILL) {
      TRY((*cgroup)->Kill(Deadline::After(kDeadlineMillis)));
    } else {
      TRY((*cgroup)->Signal(signal));
    }
    if (ended) return 0;
  }
  if (!all || found.record.rootless) {
    UniqueFd pidfd = OpenProcess(found.record.init);
    if (!pidfd || (syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0) != 0 && errno == ESRCH))
      return MakeError(Code::kFailedPrecondition, "container not running: '{}' has just ended", found.record.id);
  }
  // A process that is frozen does not die before it is thawed.
  if (signal == SIGKILL && found.status == Status::kPaused) TRY(TRY(OpenCgroup(found.record))->Thaw());
  return 0;
}

}  // namespace caisson::ocicli

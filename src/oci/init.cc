// SPDX-License-Identifier: Apache-2.0
#include "oci/init.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "oci/clone.h"
#include "oci/control.h"
#include "oci/hooks.h"
#include "oci/identity.h"
#include "oci/id_mapping.h"
#include "oci/rootfs.h"

namespace caisson::oci {
namespace {

[[noreturn]] void Fail(int control, const Error& error) {
  (void)SendFailure(control, error);  // if the launcher has gone too there is nobody to tell
  _exit(127);
}

// The launcher's handlers and masks are not the program's.
void ResetSignals() {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, nullptr);
  struct sigaction normal {};
  normal.sa_handler = SIG_DFL;
  // Handlers end with execve by themselves; what is ignored does not.
  for (int number = 1; number < 32; ++number) sigaction(number, &normal, nullptr);
  // The C library keeps 32 and 33 for itself and does not let them be set; who started the daemon may have ignored them.
  struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    uint64_t mask;
  } kernel = {};
  for (int number = 32; number <= 64; ++number) syscall(SYS_rt_sigaction, number, &kernel, nullptr, sizeof kernel.mask);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// Keys of the launcher's session are not the container's (session-keyring(7)).
Result<> LeaveSessionKeyring() {
  if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr) >= 0) return {};
  // No keyrings in this kernel, or none for us: then there is nothing to share either.
  if (errno == ENOSYS || errno == EPERM || errno == EACCES) return {};
  return ErrnoError("make a session keyring");
}

Result<> JoinCgroups(const std::vector<int>& fds) {
  for (int fd : fds) {
    if (write(fd, "0", 1) != 1) return ErrnoError("join the container's cgroup");
  }
  return {};
}

// The host's null device, for stdio that the caller did not give: a container's may be anything.
Result<UniqueFd> OpenNull(const Stdio& stdio) {
  if (stdio.in && stdio.out && stdio.err) return UniqueFd();
  // Without O_NOFOLLOW, which would stay with the descriptor: criu(8) opens it anew through a link of proc(5).
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) return ErrnoError("open /dev/null");
  return null;
}

Result<> SetStdio(const Stdio& stdio, int null) {
  const UniqueFd* ends[] = {&stdio.in, &stdio.out, &stdio.err};
  int from[3];
  for (int number = 0; number < 3; ++number) {
    // Above the three, so that no dup2 hits one that is still to be read. Closed with all others later.
    from[number] = fcntl(*ends[number] ? ends[number]->get() : null, F_DUPFD_CLOEXEC, 3);
    if (from[number] < 0) return ErrnoError("duplicate a pipe for descriptor {}", number);
  }
  for (int number = 0; number < 3; ++number) {
    if (dup2(from[number], number) < 0) return ErrnoError("set up descriptor {}", number);
  }
  return {};
}

// The slave becomes stdio and the controlling terminal of the session that setsid has made.
Result<> SetTerminal(int slave, uint32_t uid) {
  for (int number = 0; number < 3; ++number) {
    if (dup2(slave, number) < 0) return ErrnoError("set up descriptor {}", number);
  }
  if (ioctl(0, TIOCSCTTY, 0) != 0) return ErrnoError("make the pty the controlling terminal");
  // A user namespace may not map it; then it stays as it is.
  (void)!fchown(0, uid, static_cast<gid_t>(-1));
  return {};
}

// Pipes are the user's: a program may open /proc/self/fd/1 anew (stdio of a container that runs as another user).
void GiveStdio(uint32_t uid) {
  if (uid == 0) return;
  for (int number = 0; number < 3; ++number) {
    struct stat info {};
    if (fstat(number, &info) == 0 && S_ISFIFO(info.st_mode)) (void)!fchown(number, uid, static_cast<gid_t>(-1));
  }
}

// The last that the host's root does for a process that goes into a user namespace: its rights end there. Limits are
// raised, and pipes become those of the namespace's root, who may hand them on to the user (GiveStdio).
Result<> LeaveHost(const ProcessSpec& process, const Stdio& stdio, const IdMaps& maps) {
  TRY(RaiseHardLimits(process.rlimits));
  auto uid = ToHostId(maps.uids, 0), gid = ToHostId(maps.gids, 0);
  if (!uid || !gid) return {};  // a namespace that was joined without telling its maps
  for (const UniqueFd* end : {&stdio.in, &stdio.out, &stdio.err}) {
    struct stat info {};
    bool pipe = *end && fstat(end->get(), &info) == 0 && S_ISFIFO(info.st_mode);
    if (pipe && info.st_uid == 0 && fchown(end->get(), *uid, *gid) != 0)
      return ErrnoError("give a pipe of its stdio to the user namespace");
  }
  return {};
}

// What stays open beside stdio until execve, and `preserve` descriptors from number 3 on beyond it.
struct KeptDescriptors {
  int control = -1, gate = -1;
  unsigned preserve = 0;
};

// Everything else, whatever the launcher had open and wherever it came from: neither the
// working directory nor the program can be named through one of them (CVE-2024-21626).
Result<> CloseOthers(const KeptDescriptors& kept) {
  unsigned from = 3 + kept.preserve;
  auto [low, high] = std::minmax(kept.control, kept.gate);
  for (int number : {low, high}) {
    if (number < static_cast<int>(from)) continue;
    unsigned keep = static_cast<unsigned>(number);
    if (keep > from && syscall(SYS_close_range, from, keep - 1, 0u) != 0) return ErrnoError("close descriptors");
    from = keep + 1;
  }
  if (syscall(SYS_close_range, from, ~0u, 0u) != 0) return ErrnoError("close descriptors");
  return {};
}

struct Program {
  std::string path;
  std::vector<std::string> env;
};

[[noreturn]] void Execute(int control, const ProcessSpec& process, const SeccompFilter* filter,
                          const Program& program) {
  std::vector<char*> args, env;
  for (const auto& word : process.args) args.push_back(const_cast<char*>(word.c_str()));
  for (const auto& variable : program.env) env.push_back(const_cast<char*>(variable.c_str()));
  args.push_back(nullptr);
  env.push_back(nullptr);
  auto finished = FinishProcess(process, filter);
  if (!finished) Fail(control, finished.error());
  execve(program.path.c_str(), args.data(), env.data());
  int failed = errno;
  Fail(control, SysError(failed, fmt::format("exec '{}'", process.args[0])));
}

Result<> DieWithParent(bool wanted, int control) {
  if (!wanted) return {};
  // After the ids have changed, which would clear it (prctl(2)); then it may be too late already.
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (IsGone(control)) return MakeError(Code::kAborted, "the launcher went away");
  return {};
}

Result<> JoinNamespaces(const std::vector<JoinNamespace>& joins) {
  for (const auto& join : joins) {
    if (setns(join.fd.get(), join.flag) != 0) return ErrnoError("join namespace '{}'", join.path);
  }
  return {};
}

// What both ways into a container begin with, where the host's /proc is still in sight.
Result<> Begin(const ProcessSpec& process, const std::vector<int>& cgroup_join_fds, std::optional<unsigned long> persona,
               bool new_session_keyring) {
  ResetSignals();
  TRY(SetAttributes(process));
  if (persona && personality(*persona) < 0) return ErrnoError("set the personality");
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  if (setsid() < 0 && errno != EPERM) return ErrnoError("setsid");
  if (new_session_keyring) TRY(LeaveSessionKeyring());
  return JoinCgroups(cgroup_join_fds);
}

Result<> BeginInit(const InitOptions& options) {
  const CreateOptions& create = options.create;
  return Begin(create.spec.process, options.cgroup_join_fds, create.spec.personality, create.new_session_keyring);
}

// From the container's root to all but execve. `null` is closed here, like all others. `pty` is valid for a process
// with a terminal.
Result<Program> BecomeProgram(ProcessSpec* process, const Stdio& stdio, int null, Pty pty, const SeccompFilter* filter,
                              const KeptDescriptors& kept, bool die_with_parent) {
  int control = kept.control;
  UniqueFd root(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root) return ErrnoError("open the container's root");
  TRY(ResolveUser(root.get(), process));
  Program program;
  program.env = CompleteEnvironment(root.get(), *process);
  if (pty.slave) {
    TRY(SetTerminal(pty.slave.get(), process->uid));
    TRY(SendSignal(control, Signal::kConsole, pty.master.get()));
  } else {
    TRY(SetStdio(stdio, null));
    GiveStdio(process->uid);
  }
  // The owners of what is closed here are never destroyed: this process ends in execve or _exit.
  TRY(CloseOthers(kept));
  root.Release();
  pty.master.Release();
  pty.slave.Release();
  TRY(BecomeUser(*process, filter));
  TRY(DieWithParent(die_with_parent, control));
  program.path = TRY(FindProgram(process->args[0], program.env));
  return program;
}

Result<> SetNames(const Plan& plan) {
  if (!plan.hostname.empty() && sethostname(plan.hostname.data(), plan.hostname.size()) != 0) {
    return ErrnoError("set hostname '{}'", plan.hostname);
  }
  if (!plan.domainname.empty() && setdomainname(plan.domainname.data(), plan.domainname.size()) != 0) {
    return ErrnoError("set domain name '{}'", plan.domainname);
  }
  return {};
}

// Our number where the hooks' programs live; proc(5) answers as its own PID namespace has it.
int HostPid() {
  char text[16] = {};
  return readlink("/proc/self", text, sizeof text - 1) > 0 ? atoi(text) : 0;
}

// runtime-spec runtime.md "Lifecycle": both before pivot_root, those of the runtime's namespaces first.
Result<> RunCreateHooks(const InitOptions& options) {
  const Hooks& hooks = options.create.spec.hooks;
  if (!hooks.prestart.empty() || !hooks.create_runtime.empty()) {
    TRY(SendSignal(options.control, Signal::kHooks));
    // As long as the hooks take; the launcher's end of file ends it.
    auto word = TRY(Receive(options.control, Deadline::After(24 * 3600 * 1000)));
    if (word.signal != Signal::kHooksDone) return MakeError(Code::kAborted, "the launcher went away");
  }
  if (hooks.create_container.empty()) return {};
  return RunHooks(hooks.create_container, HookState(options.create, "created", HostPid()));
}

Result<Program> PrepareInit(const InitOptions& options, ProcessSpec* process, PreparedTrees* prepared) {
  const Plan& plan = options.plan;
  const CreateOptions& create = options.create;
  UniqueFd null = TRY(OpenNull(create.stdio));
  // After the group is joined: the namespace's root is where its maker is (cgroup_namespaces(7)).
  if (plan.new_cgroup_namespace && unshare(CLONE_NEWCGROUP) != 0) return ErrnoError("make a cgroup namespace");
  TRY(SetNames(plan));
  umask(0);
  RootfsOptions rootfs{plan,
                       options.cgroup->Hierarchies(),
                       options.cgroup->IsV2(),
                       options.shm.get(),
                       process->console_width,
                       process->console_height,
                       &options.mappings,
                       prepared,
                       {}};
  rootfs.before_pivot = [&] { return RunCreateHooks(options); };
  Pty pty = TRY(EnterRootfs(rootfs));
  KeptDescriptors kept{options.control, create.gate ? create.gate.get() : -1, create.preserve_fds};
  Program program =
      TRY(BecomeProgram(process, create.stdio, null.Release(), std::move(pty), options.filter, kept, create.die_with_parent));
  if (create.check_program) TRY(CheckProgram(program.path));
  Ids ids = {process->uid, process->gid};
  ids.insert(ids.end(), process->additional_gids.begin(), process->additional_gids.end());
  TRY(SendReady(options.control, ids));
  return program;
}

// Created, not started: this may take as long as the client likes. The launcher's end of file ends it.
Signal AwaitWord(int control) {
  for (;;) {
    auto word = Receive(control, Deadline::After(24 * 3600 * 1000));
    if (!word && word.error().code == Code::kDeadlineExceeded) continue;
    return word ? word->signal : Signal::kEnd;
  }
}

void AwaitStartSignal(int control) {
  if (AwaitWord(control) != Signal::kStart) _exit(127);
}

// As init of a PID namespace it would not notice a signal that it has no handler for (pid_namespaces(7)), but whoever gives
// a created container up sends one. execve takes the handlers away.
void EndOnSignals() {
  struct sigaction end {};
  end.sa_handler = [](int number) { _exit(128 + number); };
  for (int number : {SIGHUP, SIGINT, SIGQUIT, SIGTERM}) sigaction(number, &end, nullptr);
}

// Returns when the container is started, with the descriptor that its starter hears of a failure by: the launcher's own, or
// that of whoever has come to the gate after the launcher let go. Who only looks whether the gate is open says nothing.
int AwaitStarter(const InitOptions& options) {
  if (options.create.gate) EndOnSignals();
  Signal word = AwaitWord(options.control);
  if (word == Signal::kStart) return options.control;
  if (word != Signal::kRelease || !options.create.gate) _exit(127);
  (void)SendSignal(options.control, Signal::kRelease);
  close(options.control);
  for (;;) {
    int starter = accept4(options.create.gate.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (starter < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      _exit(127);
    }
    auto said = Receive(starter, Deadline::After(10'000));
    if (said && said->signal == Signal::kStart && SendSignal(starter, Signal::kStart)) return starter;
    close(starter);
  }
}

[[noreturn]] void AwaitStart(const InitOptions& options, const ProcessSpec& process, const Program& program,
                             int host_pid) {
  int starter = AwaitStarter(options);
  const auto& hooks = options.create.spec.hooks.start_container;
  if (!hooks.empty()) {
    auto done = RunHooks(hooks, HookState(options.create, "created", host_pid));
    if (!done) Fail(starter, done.error());
  }
  Execute(starter, process, options.filter, program);
}

// The restorer's descriptors, and no other. Taken above them all first, so that none is overwritten before it is moved.
// Returns the number that the control socket has then.
Result<int> SetCriuStdio(const UniqueFd& socket, const Stdio& stdio, int null, int control) {
  const UniqueFd* ends[] = {&socket, &stdio.in, &stdio.out, &stdio.err};
  int from[4], last = 2;
  for (int i = 0; i < 4; ++i) {
    from[i] = fcntl(*ends[i] ? ends[i]->get() : null, F_DUPFD_CLOEXEC, 64);
    if (from[i] < 0) return ErrnoError("duplicate a descriptor for the restorer");
  }
  for (int number = 0; number < 3; ++number) {
    if (dup2(null, number) < 0) return ErrnoError("set up descriptor {}", number);
  }
  // It may have one of the numbers.
  int safe = fcntl(control, F_DUPFD_CLOEXEC, 64);
  if (safe < 0) return ErrnoError("duplicate the control socket");
  for (int i = 0; i < 4; ++i) {
    int number = i == 0 ? 3 : kRestorerStdio + i - 1;
    if (dup2(from[i], number) < 0) return ErrnoError("set up descriptor {}", number);
    last = number;
  }
  unsigned after = static_cast<unsigned>(last) + 1, keep = static_cast<unsigned>(safe);
  if (syscall(SYS_close_range, after, keep - 1, 0u) != 0 || syscall(SYS_close_range, keep + 1, ~0u, 0u) != 0) {
    return ErrnoError("close descriptors");
  }
  return safe;
}

[[noreturn]] void ExecuteCriu(const std::string& program, int control) {
  std::string worker = "swrk", socket = "3";
  char* args[] = {const_cast<char*>(program.c_str()), worker.data(), socket.data(), nullptr};
  // It runs the system's tar, which it finds by PATH.
  std::string path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  char* env[] = {path.data(), nullptr};
  execve(program.c_str(), args, env);
  int failed = errno;
  Fail(control, SysError(failed, fmt::format("exec '{}'", program)));
}

// Returns the control socket's new number.
Result<int> PrepareRestorer(const InitOptions& options) {
  const CreateOptions& create = options.create;
  TRY(BeginInit(options));
  TRY(JoinNamespaces(options.joins));
  UniqueFd null = TRY(OpenNull(Stdio()));
  if (options.plan.new_cgroup_namespace && unshare(CLONE_NEWCGROUP) != 0) return ErrnoError("make a cgroup namespace");
  umask(0);
  TRY(BuildRootfs({options.plan, options.cgroup->Hierarchies(), options.cgroup->IsV2(), options.shm.get(), 0, 0, &options.mappings,
                   nullptr, {}}));
  ProcessSpec process = create.spec.process;
  {
    UniqueFd root(open(options.plan.root_path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!root) return ErrnoError("open root file system '{}'", options.plan.root_path);
    TRY(ResolveUser(root.get(), &process));
  }
  for (const UniqueFd* end : {&create.stdio.in, &create.stdio.out, &create.stdio.err}) {
    if (process.uid != 0 && *end) (void)!fchown(end->get(), process.uid, static_cast<gid_t>(-1));
  }
  int control = TRY(SetCriuStdio(create.restorer.socket, create.stdio, null.Release(), options.control));
  TRY(DieWithParent(create.die_with_parent, control));
  Ids ids = {process.uid, process.gid};
  ids.insert(ids.end(), process.additional_gids.begin(), process.additional_gids.end());
  TRY(SendReady(control, ids));
  return control;
}

[[noreturn]] void BecomeInit(const InitOptions& options, PreparedTrees* prepared) {
  int host_pid = HostPid();
  ProcessSpec process = options.create.spec.process;
  auto program = PrepareInit(options, &process, prepared);
  if (!program) Fail(options.control, program.error());
  AwaitStart(options, process, *program, host_pid);
}

// Without rights on the host a user namespace comes first: it gives those that all else needs.
bool Unprivileged(const InitOptions& options) { return options.create.spec.process.keep_groups; }

Result<> EnterOwnUserNamespace(const InitOptions& options) {
  if (options.user_namespace) {
    auto entered = EnterUserNamespace(options.user_namespace.get());
    if (!entered) return std::move(entered.error()).Within("namespace '" + options.plan.user_namespace + "'");
    return {};
  }
  if (unshare(CLONE_NEWUSER) != 0) return ErrnoError("make a user namespace");
  TRY(SendSignal(options.control, Signal::kNeedsMaps));
  auto word = TRY(Receive(options.control, Deadline::After(options.create.deadline_millis)));
  if (word.signal != Signal::kMapped) return MakeError(Code::kAborted, "the launcher went away");
  return BecomeNamespaceRoot(Unprivileged(options));
}

Result<> Outer(const InitOptions& options, PreparedTrees* prepared) {
  TRY(BeginInit(options));
  if (Unprivileged(options)) {
    // Else the maps, files of proc(5), would be root's and not the launcher's.
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    TRY(EnterOwnUserNamespace(options));
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return JoinNamespaces(options.joins);
  }
  if (unshare(CLONE_NEWNS) != 0) return ErrnoError("make a mount namespace");
  *prepared = TRY(PrepareTrees(options.plan, options.mappings));
  TRY(LeaveHost(options.create.spec.process, options.create.stdio, options.plan.id_maps));
  TRY(JoinNamespaces(options.joins));
  return EnterOwnUserNamespace(options);
}

const SeccompFilter* FilterOf(const ExecInit& options) { return options.target.filter ? &*options.target.filter : nullptr; }

Result<Program> PrepareExec(const ExecInit& options, ProcessSpec* process) {
  TRY(Begin(*process, options.cgroup_join_fds, options.target.personality, options.exec.new_session_keyring));
  UniqueFd null = TRY(OpenNull(options.exec.stdio));
  bool user_namespace = options.target.namespace_flags & CLONE_NEWUSER;
  if (user_namespace && !process->keep_groups) TRY(LeaveHost(*process, options.exec.stdio, options.target.id_maps));
  if (setns(options.init_pidfd, options.target.namespace_flags) != 0) return ErrnoError("join the container's namespaces");
  // A pty belongs to whoever opens it: not to someone whom the namespace does not know.
  if (user_namespace) TRY(BecomeNamespaceRoot(process->keep_groups));
  Pty pty;
  if (process->terminal) {
    UniqueFd root(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    pty = TRY(OpenPty(root.get(), process->console_width, process->console_height));
  }
  KeptDescriptors kept{options.control, -1, options.exec.preserve_fds};
  return BecomeProgram(process, options.exec.stdio, null.Release(), std::move(pty), FilterOf(options), kept,
                       options.die_with_parent);
}

}  // namespace

void RunInit(const InitOptions& options) {
  auto begun = BeginInit(options);
  if (begun) begun = JoinNamespaces(options.joins);
  if (!begun) Fail(options.control, begun.error());
  BecomeInit(options, nullptr);
}

void RunRestorer(const InitOptions& options) {
  auto control = PrepareRestorer(options);
  if (!control) Fail(options.control, control.error());
  AwaitStartSignal(*control);
  ExecuteCriu(options.create.restorer.program, *control);
}

void RunDumper(const DumperInit& options) {
  auto prepare = [&]() -> Result<int> {
    ResetSignals();
    if (setsid() < 0 && errno != EPERM) return ErrnoError("setsid");
    // So that it is no namespace of the container's own in its eyes: the restored one's is the new container's.
    if (options.cgroup_namespace && setns(options.init_pidfd, CLONE_NEWCGROUP) != 0) return ErrnoError("join the container's cgroup namespace");
    UniqueFd null = TRY(OpenNull(Stdio()));
    int control = TRY(SetCriuStdio(options.socket, Stdio(), null.Release(), options.control));
    TRY(DieWithParent(true, control));
    return control;
  };
  auto control = prepare();
  if (!control) Fail(options.control, control.error());
  ExecuteCriu(options.program, *control);
}

void RunOuter(const InitOptions& options) {
  PreparedTrees prepared;
  auto entered = Outer(options, &prepared);
  if (!entered) Fail(options.control, entered.error());
  int gate[2];
  if (pipe2(gate, O_CLOEXEC) != 0) Fail(options.control, ErrnoError("make a pipe"));
  auto cloned = Clone((options.plan.clone_flags & ~static_cast<unsigned long>(CLONE_NEWUSER)) | CLONE_PARENT, -1);
  if (!cloned) Fail(options.control, cloned.error());
  if (cloned->pid == 0) {
    // Until the launcher has been told of us: a failure that it heard of before would leave it a child it does not know.
    close(gate[1]);
    char word;
    while (read(gate[0], &word, 1) < 0 && errno == EINTR) {
    }
    // The change of ids has made us undumpable anyway; setsid of the sibling's own.
    if (setsid() < 0 && errno != EPERM) Fail(options.control, ErrnoError("setsid"));
    BecomeInit(options, Unprivileged(options) ? nullptr : &prepared);
  }
  auto sent = SendSignal(options.control, Signal::kChild, cloned->pidfd.get());
  if (!sent) KillAndReap(cloned->pidfd.get());
  _exit(sent ? 0 : 127);
}

void RunExec(const ExecInit& options) {
  ProcessSpec process = options.exec.process;
  auto program = PrepareExec(options, &process);
  if (!program) Fail(options.control, program.error());
  Execute(options.control, process, FilterOf(options), *program);
}

}  // namespace caisson::oci

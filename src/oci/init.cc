// SPDX-License-Identifier: Apache-2.0
#include "oci/init.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "oci/control.h"
#include "oci/identity.h"
#include "oci/rootfs.h"
#include "sys/path.h"

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
  for (int number = 1; number < NSIG; ++number) sigaction(number, &normal, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

Result<> JoinCgroups(const std::vector<int>& fds) {
  for (int fd : fds) {
    if (write(fd, "0", 1) != 1) return ErrnoError("join the container's cgroup");
  }
  return {};
}

Result<> SetStdio(const Stdio& stdio) {
  const UniqueFd* ends[] = {&stdio.in, &stdio.out, &stdio.err};
  UniqueFd null;
  for (int number = 0; number < 3; ++number) {
    int from = ends[number]->get();
    if (from < 0) {
      if (!null) null = UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC));
      if (!null) return ErrnoError("open /dev/null");
      from = null.get();
    }
    if (dup2(from, number) < 0) return ErrnoError("set up descriptor {}", number);
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
  for (int number = 0; number < 3; ++number) {
    struct stat info {};
    if (fstat(number, &info) == 0 && S_ISFIFO(info.st_mode)) (void)!fchown(number, uid, static_cast<gid_t>(-1));
  }
}

Result<> CloseOnExec() {
  // Everything but stdio, whatever the launcher had open and wherever it came from (CVE-2024-21626).
  if (syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC, Linux 5.11 */) == 0) return {};
  for (int fd = 3; fd < 65536; ++fd) {
    int flags = fcntl(fd, F_GETFD);
    if (flags >= 0) fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
  }
  return {};
}

struct Program {
  std::string path;
  std::vector<std::string> env;
};

Result<Program> FindProgramOf(const ProcessSpec& process) {
  Program program;
  program.env = CompleteEnvironment(process);
  program.path = TRY(FindProgram(process.args[0], program.env));
  return program;
}

[[noreturn]] void Execute(int control, const ProcessSpec& process, const Program& program) {
  std::vector<char*> args, env;
  for (const auto& word : process.args) args.push_back(const_cast<char*>(word.c_str()));
  for (const auto& variable : program.env) env.push_back(const_cast<char*>(variable.c_str()));
  args.push_back(nullptr);
  env.push_back(nullptr);
  execve(program.path.c_str(), args.data(), env.data());
  int failed = errno;
  Error error = SysError(failed, fmt::format("exec '{}'", process.args[0]));
  Fail(control, error);
}

void DieWithParent(bool wanted) {
  // After the identity has changed, which would clear it (prctl(2)).
  if (wanted) prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

Result<> JoinNamespaces(const InitOptions& options) {
  for (const auto& join : options.joins) {
    if (setns(join.fd.get(), join.flag) != 0) return ErrnoError("join namespace '{}'", join.path);
  }
  return {};
}

Result<> WaitForIdMaps(const InitOptions& options) {
  if (!options.new_user_namespace) return {};
  auto word = TRY(Receive(options.control, Deadline::After(options.create.deadline_millis)));
  if (word.signal != Signal::kMapped) return MakeError(Code::kAborted, "the launcher went away");
  // Root of the new namespace, so that what is made belongs to it.
  if (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0) return ErrnoError("become root of the user namespace");
  return {};
}

Result<Program> Prepare(const InitOptions& options) {
  const Spec& spec = options.create.spec;
  ResetSignals();
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  if (setsid() < 0 && errno != EPERM) return ErrnoError("setsid");
  TRY(JoinCgroups(options.cgroup_join_fds));
  TRY(WaitForIdMaps(options));
  TRY(JoinNamespaces(options));
  // After the group is joined: the namespace's root is where its maker is (cgroup_namespaces(7)).
  const NamespaceSpec* cgroup = spec.FindNamespace(CLONE_NEWCGROUP);
  if (cgroup != nullptr && cgroup->path.empty() && unshare(CLONE_NEWCGROUP) != 0) return ErrnoError("make a cgroup namespace");
  const NamespaceSpec* uts = spec.FindNamespace(CLONE_NEWUTS);
  if (uts != nullptr && !spec.hostname.empty() && uts->path.empty() && sethostname(spec.hostname.data(), spec.hostname.size()) != 0) {
    return ErrnoError("set hostname '{}'", spec.hostname);
  }
  if (uts != nullptr && !spec.domainname.empty() && uts->path.empty() && setdomainname(spec.domainname.data(), spec.domainname.size()) != 0) {
    return ErrnoError("set domain name '{}'", spec.domainname);
  }
  umask(0);
  RootfsDone rootfs;
  if (spec.FindNamespace(CLONE_NEWNS) != nullptr) {
    rootfs = TRY(EnterRootfs({options.create, options.cgroup->Hierarchies(), options.cgroup->IsV2()}));
  }
  if (spec.process.terminal) {
    TRY(SetTerminal(rootfs.console_slave.get(), spec.process.uid));
  } else {
    TRY(SetStdio(options.create.stdio));
    GiveStdio(spec.process.uid);
  }
  TRY(CloseOnExec());
  TRY(BecomeProcess(spec.process, options.filter));
  DieWithParent(options.create.die_with_parent);
  Program program = TRY(FindProgramOf(spec.process));
  TRY(SendSignal(options.control, Signal::kReady, rootfs.console_master.get()));
  return program;
}

}  // namespace

void RunInit(const InitOptions& options) {
  auto program = Prepare(options);
  if (!program) Fail(options.control, program.error());
  // Created, not started: this may take as long as the client likes. The launcher's end of file ends it.
  for (;;) {
    auto word = Receive(options.control, Deadline::After(24 * 3600 * 1000));
    if (!word && word.error().code == Code::kDeadlineExceeded) continue;
    if (!word || word->signal != Signal::kStart) _exit(127);
    break;
  }
  Execute(options.control, options.create.spec.process, *program);
}

namespace {

Result<Program> PrepareExec(const ExecInit& options) {
  const ProcessSpec& process = options.exec.process;
  ResetSignals();
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  TRY(JoinCgroups(options.cgroup_join_fds));
  if (setns(options.init_pidfd, options.namespace_flags) != 0) return ErrnoError("join the container's namespaces");
  if (setsid() < 0 && errno != EPERM) return ErrnoError("setsid");
  Pty pty;
  if (process.terminal) {
    UniqueFd root(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    pty = TRY(OpenPty(root.get(), process.console_width, process.console_height));
    TRY(SetTerminal(pty.slave.get(), process.uid));
  } else {
    TRY(SetStdio(options.exec.stdio));
    GiveStdio(process.uid);
  }
  TRY(CloseOnExec());
  TRY(BecomeProcess(process, options.filter));
  DieWithParent(options.die_with_parent);
  Program program = TRY(FindProgramOf(process));
  if (pty.master) TRY(SendSignal(options.control, Signal::kReady, pty.master.get()));
  return program;
}

}  // namespace

void RunExec(const ExecInit& options) {
  auto program = PrepareExec(options);
  if (!program) Fail(options.control, program.error());
  Execute(options.control, options.exec.process, *program);
}

}  // namespace caisson::oci

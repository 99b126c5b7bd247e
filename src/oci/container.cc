// SPDX-License-Identifier: Apache-2.0
#include "oci/container.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include <nlohmann/json.hpp>

#include "base/scope_exit.h"
#include "oci/clone.h"
#include "oci/control.h"
#include "oci/hooks.h"
#include "oci/init.h"
#include "sys/path.h"

namespace caisson::oci {
namespace {

// What a container has of its own when the spec says so, but for the cgroup namespace, which init makes after it has joined
// the group.
constexpr int kCloneFlags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWUSER;

Result<> WriteWhole(const std::string& path, const std::string& text) {
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file) return ErrnoError("open '{}'", path);
  if (write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return ErrnoError("write '{}'", path);
  return {};
}

std::string FormatMap(const std::vector<IdMapping>& mappings) {
  std::string text;
  for (const auto& mapping : mappings) text += fmt::format("{} {} {}\n", mapping.container_id, mapping.host_id, mapping.size);
  return text;
}

// The PID namespace that children are born in, for as long as the object lives (setns(2): it changes children only).
class ChildPidNamespace {
 public:
  static Result<ChildPidNamespace> Enter(int fd) {
    ChildPidNamespace entered;
    entered.own_ = UniqueFd(open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC));
    if (!entered.own_) return ErrnoError("open our PID namespace");
    if (setns(fd, CLONE_NEWPID) != 0) return ErrnoError("enter the container's PID namespace");
    entered.entered_ = true;
    return entered;
  }
  ChildPidNamespace() = default;
  ChildPidNamespace(ChildPidNamespace&& other) noexcept : own_(std::move(other.own_)), entered_(std::exchange(other.entered_, false)) {}
  ChildPidNamespace& operator=(ChildPidNamespace&&) = delete;
  ~ChildPidNamespace() { Leave(); }
  void Leave() {
    // Back to where we are ourselves: always allowed.
    if (std::exchange(entered_, false)) (void)setns(own_.get(), CLONE_NEWPID);
  }

 private:
  UniqueFd own_;
  bool entered_ = false;
};

class ContainerImpl : public Container {
 public:
  ContainerImpl(CreateOptions options, std::unique_ptr<Cgroup> cgroup) : options_(std::move(options)), cgroup_(std::move(cgroup)) {}

  const std::string& id() const override { return options_.id; }
  const Process& init() const override { return init_; }
  Process* mutable_init() override { return &init_; }
  Cgroup* cgroup() override { return cgroup_.get(); }
  const Spec& spec() const override { return options_.spec; }

  Result<> Launch() {
    if (options_.spec.seccomp) filter_ = TRY(CompileSeccomp(*options_.spec.seccomp, options_.seccomp_cache_dir));
    InitOptions init{options_, cgroup_.get(), {}, filter_ ? &*filter_ : nullptr, {}, false, -1};
    unsigned long flags = 0;
    ChildPidNamespace pid_namespace;
    for (const auto& space : options_.spec.namespaces) {
      if (space.path.empty()) {
        flags |= static_cast<unsigned long>(space.flag & kCloneFlags);
        continue;
      }
      UniqueFd fd(open(space.path.c_str(), O_RDONLY | O_CLOEXEC));
      if (!fd) return ErrnoError("open namespace '{}'", space.path);
      if (space.flag == CLONE_NEWPID) {
        TRY(EnterPid(fd.get()));
      } else {
        init.joins.push_back({space.flag, std::move(fd), space.path});
      }
    }
    init.new_user_namespace = flags & CLONE_NEWUSER;
    init.cgroup_join_fds = TRY(cgroup_->JoinFds());
    auto control = TRY(MakeControlPair());
    init.control = control.child.get();
    auto cloned = Clone(flags, cgroup_->CloneIntoFd());
    if (cloned && cloned->pid == 0) {
      control.parent.Reset();  // else its end of file would never come
      RunInit(init);
    }
    entered_pid_.reset();
    if (!cloned) return std::move(cloned.error());
    cgroup_->CloseFds();
    control.child.Reset();
    init_.pid = cloned->pid;
    init_.pidfd = std::move(cloned->pidfd);
    options_.stdio = Stdio();  // the child has them
    control_ = std::move(control.parent);
    TRY(AwaitReady());
    filter_for_exec_ = std::move(filter_);
    return RunCreateHooks();
  }

  Result<> Start() override {
    if (!control_) return MakeError(Code::kFailedPrecondition, "container '{}' was started already", id());
    TRY(SendSignal(control_.get(), Signal::kStart));
    UniqueFd control = std::move(control_);
    auto word = Receive(control.get(), Deadline::After(options_.deadline_millis));
    if (!word) return std::move(word.error());
    // End of file: execve has closed the other end. Or the process was killed meanwhile, which its exit tells.
    if (word->signal != Signal::kEnd) return MakeError(Code::kInternal, "container '{}': init speaks out of turn", id());
    return RunHooks(options_.spec.hooks.poststart, State("running"));
  }

  Result<Process> Exec(ExecOptions exec) override {
    int flags = NamespaceFlags();
    auto control = TRY(MakeControlPair());
    ExecInit init{exec, init_.pidfd.get(), flags, TRY(cgroup_->JoinFds()), nullptr, options_.die_with_parent, control.child.get()};
    if (options_.spec.seccomp && filter_for_exec_) init.filter = &*filter_for_exec_;
    if (options_.spec.FindNamespace(CLONE_NEWPID) != nullptr) {
      UniqueFd pid_namespace(open(fmt::format("/proc/{}/ns/pid", init_.pid).c_str(), O_RDONLY | O_CLOEXEC));
      if (!pid_namespace) return NotRunning();
      TRY(EnterPid(pid_namespace.get()));
    }
    auto cloned = Clone(0, cgroup_->CloneIntoFd());
    if (cloned && cloned->pid == 0) {
      control.parent.Reset();
      RunExec(init);
    }
    entered_pid_.reset();
    if (!cloned) return cloned.error().sys_errno == ENOMEM ? NotRunning() : std::move(cloned.error());
    cgroup_->CloseFds();
    control.child.Reset();
    Process process{cloned->pid, std::move(cloned->pidfd), UniqueFd()};
    auto failed = AwaitExec(control.parent.get(), exec, &process);
    if (failed) return process;
    KillAndReap(process.pidfd.get());
    return std::move(failed.error());
  }

  Result<> Kill(int signal, bool all) override {
    if (all) return cgroup_->Signal(signal);
    if (syscall(SYS_pidfd_send_signal, init_.pidfd.get(), signal, nullptr, 0) == 0 || errno == ESRCH) return {};
    return ErrnoError("send signal {} to container '{}'", signal, id());
  }
  Result<> Pause() override { return cgroup_->Freeze(Deadline::After(10'000)); }
  Result<> Resume() override { return cgroup_->Thaw(); }
  Result<> Update(const Resources& resources) override { return cgroup_->Apply(resources); }
  Result<std::vector<int>> Pids() override { return cgroup_->Pids(); }

  Result<> Delete(int64_t deadline_millis) override {
    control_.Reset();
    auto gone = cgroup_->Delete(Deadline::After(deadline_millis));
    TRY(RunHooks(options_.spec.hooks.poststop, State("stopped")));
    return gone;
  }

  // After a failed Launch: the child, then the group.
  void Undo() {
    control_.Reset();
    entered_pid_.reset();
    KillAndReap(init_.pidfd.get());
    (void)cgroup_->Delete(Deadline::After(10'000));  // what failed before is the error to tell
  }

 private:
  Result<> EnterPid(int fd) {
    entered_pid_.emplace(TRY(ChildPidNamespace::Enter(fd)));
    return {};
  }

  Error NotRunning() const { return MakeError(Code::kFailedPrecondition, "container '{}' is not running", id()); }

  // Of setns(2) with the init's pidfd: what init does not share with us. A namespace that is the same costs nothing.
  int NamespaceFlags() const {
    int flags = 0;
    for (const auto& space : options_.spec.namespaces) {
      if (space.flag != CLONE_NEWPID && space.flag != 0x80 /* CLONE_NEWTIME */) flags |= space.flag;
    }
    return flags;
  }

  Result<> AwaitReady() {
    Deadline deadline = Deadline::After(options_.deadline_millis);
    const Spec& spec = options_.spec;
    const NamespaceSpec* user = spec.FindNamespace(CLONE_NEWUSER);
    if (user != nullptr && user->path.empty()) {
      std::string proc = fmt::format("/proc/{}/", init_.pid);
      TRY(WriteWhole(proc + "uid_map", FormatMap(spec.uid_mappings)));
      TRY(WriteWhole(proc + "gid_map", FormatMap(spec.gid_mappings)));
      TRY(SendSignal(control_.get(), Signal::kMapped));
    }
    auto word = TRY(Receive(control_.get(), deadline));
    if (word.signal != Signal::kReady) return MakeError(Code::kAborted, "container '{}': init ended before it was ready (killed?)", id());
    init_.console = std::move(word.fd);
    return {};
  }

  Result<> AwaitExec(int control, const ExecOptions& exec, Process* process) {
    Deadline deadline = Deadline::After(exec.deadline_millis);
    auto word = TRY(Receive(control, deadline));
    if (word.signal == Signal::kReady) {
      process->console = std::move(word.fd);
      word = TRY(Receive(control, deadline));
    }
    if (word.signal != Signal::kEnd) return MakeError(Code::kInternal, "exec in container '{}': the process speaks out of turn", id());
    return {};
  }

  std::string State(const char* status) const {
    nlohmann::json state = {{"ociVersion", "1.2.0"}, {"id", id()}, {"status", status}, {"pid", init_.pid},
                            {"bundle", options_.bundle}, {"annotations", options_.spec.annotations}};
    return DumpJson(state);
  }

  Result<> RunCreateHooks() {
    const Hooks& hooks = options_.spec.hooks;
    if (!hooks.create_container.empty() || !hooks.start_container.empty()) {
      return MakeError(Code::kUnimplemented, "container '{}': createContainer and startContainer hooks are not supported", id());
    }
    TRY(RunHooks(hooks.prestart, State("created")));
    return RunHooks(hooks.create_runtime, State("created"));
  }

  CreateOptions options_;
  std::unique_ptr<Cgroup> cgroup_;
  std::optional<SeccompFilter> filter_, filter_for_exec_;
  std::optional<ChildPidNamespace> entered_pid_;
  Process init_;
  UniqueFd control_;  // valid from created to started
};

}  // namespace

Result<std::unique_ptr<Container>> Container::Create(CreateOptions options) {
  const Spec& spec = options.spec;
  if (spec.process.args.empty()) return MakeError(Code::kInvalidArgument, "container '{}': process.args is empty", options.id);
  if (spec.FindNamespace(CLONE_NEWNS) == nullptr) return MakeError(Code::kInvalidArgument, "container '{}' has no mount namespace of its own", options.id);
  CgroupOptions group;
  group.path = spec.cgroups_path;
  group.systemd = options.systemd_cgroup;
  group.resources = spec.resources;
  auto cgroup = TRY(Cgroup::Create(group));
  auto container = std::make_unique<ContainerImpl>(std::move(options), std::move(cgroup));
  auto launched = container->Launch();
  if (!launched) {
    container->Undo();
    return std::move(launched.error());
  }
  return std::unique_ptr<Container>(std::move(container));
}

}  // namespace caisson::oci

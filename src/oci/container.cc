// SPDX-License-Identifier: Apache-2.0
#include "oci/container.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/id.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "oci/bind.h"
#include "oci/clone.h"
#include "oci/control.h"
#include "oci/hooks.h"
#include "oci/init.h"
#include "oci/plan.h"
#include "oci/restored.h"
#include "oci/user_namespace.h"
#include "sys/oom_score.h"
#include "sys/path.h"

namespace caisson::oci {
namespace {

Result<> WriteWhole(const std::string& path, const std::string& text) {
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file) return ErrnoError("open '{}'", path);
  if (write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return ErrnoError("write '{}'", path);
  return {};
}

Result<UniqueFd> OpenNamespace(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return ErrnoError("open namespace '{}'", path);
  return fd;
}

// The PID namespace that children are born in, for as long as the object lives (setns(2): it changes children only).
class ChildPidNamespace {
 public:
  // `fd`: of the namespace, or a pidfd of a process in it.
  static Result<ChildPidNamespace> Enter(int fd) {
    ChildPidNamespace entered;
    entered.own_ = UniqueFd(open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC));
    if (!entered.own_) return ErrnoError("open our PID namespace");
    if (setns(fd, CLONE_NEWPID) != 0) return ErrnoError("enter the container's PID namespace");
    return entered;
  }
  ChildPidNamespace(ChildPidNamespace&& other) = default;
  ChildPidNamespace& operator=(ChildPidNamespace&&) = delete;
  ~ChildPidNamespace() {
    // Back to where we are ourselves: always allowed.
    if (own_) (void)setns(own_.get(), CLONE_NEWPID);
  }

 private:
  ChildPidNamespace() = default;
  UniqueFd own_;
};

class ContainerImpl : public Container {
 public:
  ContainerImpl(CreateOptions options, std::unique_ptr<Cgroup> cgroup, Plan plan)
      : options_(std::move(options)), cgroup_(std::move(cgroup)), plan_(std::move(plan)) {}

  const std::string& id() const override { return options_.id; }
  const Process& init() const override { return init_; }
  Process* mutable_init() override { return &init_; }
  Cgroup* cgroup() override { return cgroup_.get(); }
  const Spec& spec() const override { return options_.spec; }
  const std::string& root_path() const override { return plan_.root_path; }
  const SeccompFilter* filter() const override { return filter_ ? &*filter_ : nullptr; }

  Result<> Launch() {
    filter_ = std::move(options_.filter);
    if (!filter_ && options_.spec.seccomp) filter_ = TRY(CompileSeccomp(*options_.spec.seccomp, options_.seccomp_cache_dir));
    options_.spec.seccomp.reset();  // the filter says it all; its rules would stay in memory as long as the container
    UniqueFd shm = TRY(CloneShm());
    InitOptions init{options_, plan_, cgroup_.get(), {}, filter_ ? &*filter_ : nullptr, {}, {}, {}, std::move(shm), -1};
    for (const auto& join : plan_.joins) init.joins.push_back({join.flag, TRY(OpenNamespace(join.path)), join.path});
    if (!plan_.user_namespace.empty()) init.user_namespace = TRY(OpenNamespace(plan_.user_namespace));
    init.mappings = TRY(MakeMappings(init.user_namespace));
    std::optional<ChildPidNamespace> pid_namespace;
    if (!plan_.pid_namespace.empty()) {
      UniqueFd fd = TRY(OpenNamespace(plan_.pid_namespace));
      pid_namespace.emplace(TRY(ChildPidNamespace::Enter(fd.get())));
    }
    bool outer = plan_.new_user_namespace || init.user_namespace;
    init.cgroup_join_fds = TRY(cgroup_->JoinFds());
    auto control = TRY(MakeControlPair());
    init.control = control.child.get();
    // What a restorer makes has a PID namespace of its own, not the restorer.
    const bool restores = !options_.restorer.program.empty();
    auto cloned = Clone(outer      ? 0
                        : restores ? plan_.clone_flags & ~static_cast<unsigned long>(CLONE_NEWPID)
                                   : plan_.clone_flags,
                        cgroup_->CloneIntoFd());
    if (cloned && cloned->pid == 0) {
      control.parent.Reset();  // else its end of file would never come
      restores ? RunRestorer(init) : outer ? RunOuter(init) : RunInit(init);
    }
    pid_namespace.reset();
    if (!cloned) return WithCgroup(std::move(cloned.error()));
    cgroup_->CloseFds();
    control.child.Reset();
    options_.stdio = Stdio();  // the child has them
    options_.restorer.socket.Reset();
    control_ = std::move(control.parent);
    if (outer) {
      TRY(AwaitInit(*cloned));
    } else {
      init_.pid = cloned->pid;
      init_.pidfd = std::move(cloned->pidfd);
    }
    return AwaitReady();
  }

  Result<> Release() override {
    if (!control_ || !options_.gate) return MakeError(Code::kFailedPrecondition, "container '{}' has no gate", id());
    TRY(SendSignal(control_.get(), Signal::kRelease));
    auto word = Receive(control_.get(), Deadline::After(options_.deadline_millis));
    if (!word) return std::move(word.error());
    if (word->signal != Signal::kRelease) return EndedEarly();
    control_.Reset();
    options_.gate.Reset();
    return {};
  }

  Result<> Start() override {
    if (!control_) return StartedAlready();
    if (opened_) {
      TRY(StartAtGate(id(), std::move(control_), options_.deadline_millis));
    } else {
      TRY(SendSignal(control_.get(), Signal::kStart));
      UniqueFd control = std::move(control_);
      TRY(AwaitExecve(id(), control.get(), options_.deadline_millis));
    }
    return RunHooks(options_.spec.hooks.poststart, State("running"));
  }

  Result<> Adopt(int pid) override {
    UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    if (!pidfd) return ErrnoError("container '{}': open the restored process {}", id(), pid);
    auto checked = CheckRestored({options_.spec, filter_.has_value(), plan_.root_path, init_.pid}, pid, TRY(cgroup_->Pids()));
    if (!checked) return std::move(checked.error()).Within(fmt::format("container '{}'", id()));
    // As the new container says, whatever it was.
    if (options_.spec.process.oom_score_adj) TRY(SetOomScore());
    init_.pid = pid;
    init_.pidfd = std::move(pidfd);
    return {};
  }

  Result<Process> StartDumper(const std::string& program, UniqueFd socket) override {
    auto control = TRY(MakeControlPair());
    const NamespaceSpec* space = options_.spec.FindNamespace(CLONE_NEWCGROUP);
    auto cloned = TRY(Clone(0, -1));
    if (cloned.pid == 0) {
      control.parent.Reset();
      RunDumper({program, socket, init_.pidfd.get(), space != nullptr, control.child.get()});
    }
    control.child.Reset();
    Process process{cloned.pid, std::move(cloned.pidfd), UniqueFd()};
    auto word = Receive(control.parent.get(), Deadline::After(options_.deadline_millis));
    if (word && word->signal == Signal::kEnd) return process;
    KillAndReap(process.pidfd.get());
    if (!word) return std::move(word.error());
    return MakeError(Code::kInternal, "the dumper of container '{}' speaks out of turn", id());
  }

  Result<Process> Exec(ExecOptions exec) override {
    if (!init_.pidfd) return NotRunning();
    exec.process.keep_groups = options_.spec.process.keep_groups;
    ExecTarget target = TRY(MakeExecTarget());
    auto control = TRY(MakeControlPair());
    ExecInit init{exec, init_.pidfd.get(), target, TRY(cgroup_->JoinFds()), options_.die_with_parent, control.child.get()};
    auto cloned = exec.process.keep_groups ? CloneExecUnprivileged(&init, &control.parent) : CloneExec(init, &control.parent);
    // ENOMEM: no process can be born in a PID namespace whose init has ended (pid_namespaces(7)).
    if (!cloned) return cloned.error().sys_errno == ENOMEM ? NotRunning() : std::move(cloned.error());
    cgroup_->CloseFds();
    control.child.Reset();
    Process process{cloned->pid, std::move(cloned->pidfd), UniqueFd()};
    auto console = AwaitExec(id(), control.parent.get(), exec.deadline_millis);
    if (console) {
      process.console = std::move(*console);
      return process;
    }
    KillAndReap(process.pidfd.get());
    return std::move(console.error());
  }

  Result<ExecTarget> MakeExecTarget() override {
    // Compiled when it is needed: other verbs on a container that was opened again never do.
    if (!filter_ && options_.spec.seccomp) filter_ = TRY(CompileSeccomp(*options_.spec.seccomp, options_.seccomp_cache_dir));
    return ExecTarget{NamespaceFlags(), filter_, options_.spec.personality, plan_.id_maps};
  }

  Result<> Kill(int signal, bool all) override {
    if (all) return cgroup_->Signal(signal);
    if (!init_.pidfd) return {};
    if (syscall(SYS_pidfd_send_signal, init_.pidfd.get(), signal, nullptr, 0) == 0 || errno == ESRCH) return {};
    return ErrnoError("send signal {} to container '{}'", signal, id());
  }
  Result<> Pause() override { return cgroup_->Freeze(Deadline::After(10'000)); }
  Result<> Resume() override { return cgroup_->Thaw(); }
  Result<> Update(std::string_view resources) override { return cgroup_->Apply(TRY(ParseResources(resources))); }
  Result<std::vector<int>> Pids() override { return cgroup_->Pids(); }

  Result<> Delete(int64_t deadline_millis) override {
    control_.Reset();
    auto gone = cgroup_->Delete(Deadline::After(deadline_millis));
    TRY(RunHooks(options_.spec.hooks.poststop, State("stopped")));
    return gone;
  }

  // Of a container that another process has launched.
  void Find(int pid, UniqueFd pidfd, UniqueFd gate) {
    opened_ = true;
    init_.pid = pid;
    init_.pidfd = std::move(pidfd);
    control_ = std::move(gate);
  }

  // After a failed Launch: the child, then the group.
  void Undo() {
    control_.Reset();
    KillAndReap(init_.pidfd.get());
    (void)cgroup_->Delete(Deadline::After(10'000));  // what failed before is the error to tell
  }

 private:
  // The new process is ours and inside the container's PID namespace; in it this never returns. `parent_end`: of the control
  // pair, not the child's.
  Result<Cloned> CloneExec(const ExecInit& init, UniqueFd* parent_end) {
    std::optional<ChildPidNamespace> pid_namespace;
    if (options_.spec.FindNamespace(CLONE_NEWPID) != nullptr) {
      auto entered = ChildPidNamespace::Enter(init_.pidfd.get());
      if (!entered) return entered.error().sys_errno == ESRCH ? NotRunning() : std::move(entered.error());
      pid_namespace.emplace(std::move(*entered));
    }
    auto cloned = Clone(0, cgroup_->CloneIntoFd());
    if (!cloned && cloned.error().sys_errno == EBUSY) {
      auto below = cgroup_->GroupBelowOf(init_.pid);
      if (below) cloned = Clone(0, below->get());
    }
    if (cloned && cloned->pid == 0) {
      parent_end->Reset();
      RunExec(init);
    }
    return cloned;
  }

  // Who is not root may enter nothing of the container's before its user namespace.
  Result<Cloned> CloneExecUnprivileged(ExecInit* init, UniqueFd* parent_end) {
    init->target.namespace_flags &= ~CLONE_NEWUSER;
    UniqueFd space = TRY(OpenNamespace(fmt::format("/proc/{}/ns/user", init_.pid)));
    bool own_pids = options_.spec.FindNamespace(CLONE_NEWPID) != nullptr;
    Cloned cloned;
    cloned.pidfd = TRY(CloneInUserNamespace(
        space.get(), 0,
        [&] {
          parent_end->Reset();
          RunExec(*init);
        },
        true, own_pids ? init_.pidfd.get() : -1));
    cloned.pid = TRY(PidOf(cloned.pidfd.get()));
    return cloned;
  }

  Error StartedAlready() const { return MakeError(Code::kFailedPrecondition, "container '{}' was started already", id()); }
  Error NotRunning() const { return MakeError(Code::kFailedPrecondition, "container '{}' is not running", id()); }

  Result<> SetOomScore() {
    for (int pid : TRY(cgroup_->Pids())) {
      // One that may not be lowered stays, as when it is started (identity.h).
      auto set = sys::SetOomScore(pid, *options_.spec.process.oom_score_adj);
      if (!set && set.error().sys_errno != EACCES && set.error().sys_errno != ENOENT && set.error().sys_errno != ESRCH) return set;
    }
    return {};
  }

  // Of setns(2) with the init's pidfd: what init does not share with us. A namespace that is the same costs nothing.
  int NamespaceFlags() const {
    int flags = 0;
    for (const auto& space : options_.spec.namespaces) {
      if (space.flag != CLONE_NEWPID && space.flag != 0x80 /* CLONE_NEWTIME */) flags |= space.flag;
    }
    return flags;
  }

  // clone3 says of a cgroup that takes no process only EOPNOTSUPP or EBUSY (cgroup-v2.rst, "Threads", "No Internal Process").
  Error WithCgroup(Error error) const {
    if (error.sys_errno != EOPNOTSUPP && error.sys_errno != EBUSY) return error;
    for (const CgroupHierarchy& one : cgroup_->Hierarchies()) {
      if (!one.v2) continue;
      auto type = sys::ReadFile(one.path + "/cgroup.type", 64);
      return std::move(error).Within(
          fmt::format("cgroup '{}' (its type is '{}') takes no process", one.path, type ? Trim(*type) : "unknown"));
    }
    return error;
  }

  // Cloned here and not by init: before Linux 6.15 open_tree(2) clones only what is mounted in the caller's own mount
  // namespace, and that is ours.
  Result<UniqueFd> CloneShm() const {
    bool wanted = std::any_of(plan_.mounts.begin(), plan_.mounts.end(),
                              [](const MountPlan& mount) { return mount.kind == MountKind::kShm; });
    if (!wanted) return UniqueFd();
    if (options_.shm_fd < 0) return MakeError(Code::kFailedPrecondition, "container '{}': the pod has no /dev/shm", id());
    auto tree = CloneTree(options_.shm_fd, "", false);
    if (!tree) return std::move(tree.error()).Within(fmt::format("container '{}': clone the pod's /dev/shm", id()));
    return tree;
  }

  // The user namespaces that say how mounts are mapped; the container's own where it is there already.
  Result<MappingNamespaces> MakeMappings(const UniqueFd& own) const {
    MappingNamespaces mappings;
    if (own && !plan_.id_maps.empty()) {
      UniqueFd copy(fcntl(own.get(), F_DUPFD_CLOEXEC, 3));
      if (!copy) return ErrnoError("duplicate a descriptor");
      mappings.Add(plan_.id_maps, std::move(copy));
    }
    for (const auto* mounts : {&plan_.root_mounts, &plan_.mounts}) {
      for (const auto& mount : *mounts) {
        if (!mount.id_maps.empty()) TRY(mappings.Make(mount.id_maps));
      }
    }
    return mappings;
  }

  // With a user namespace: `outer` makes init, as our child, and ends.
  Result<> AwaitInit(const Cloned& outer) {
    ScopeExit reap([&] { KillAndReap(outer.pidfd.get()); });
    Deadline deadline = Deadline::After(options_.deadline_millis);
    auto word = TRY(Receive(control_.get(), deadline));
    if (word.signal == Signal::kNeedsMaps) {
      std::string proc = fmt::format("/proc/{}/", outer.pid);
      // user_namespaces(7), "Defining user and group ID mappings": else who has no rights may map no group.
      if (options_.spec.process.keep_groups) TRY(WriteWhole(proc + "setgroups", "deny"));
      TRY(WriteWhole(proc + "uid_map", FormatIdMappings(plan_.id_maps.uids)));
      TRY(WriteWhole(proc + "gid_map", FormatIdMappings(plan_.id_maps.gids)));
      TRY(SendSignal(control_.get(), Signal::kMapped));
      word = TRY(Receive(control_.get(), deadline));
    }
    // Its word and init's come by one socket, in either order.
    for (; word.signal != Signal::kChild; word = TRY(Receive(control_.get(), deadline))) {
      if (word.signal == Signal::kEnd) return EndedEarly();
      early_.push_back(std::move(word));
    }
    init_.pidfd = std::move(word.fd);
    init_.pid = TRY(PidOf(init_.pidfd.get()));
    return {};
  }

  Error EndedEarly() const {
    return MakeError(Code::kAborted, "container '{}': init ended before it was ready (killed?)", id());
  }

  Result<> AwaitReady() {
    Deadline deadline = Deadline::After(options_.deadline_millis);
    for (;;) {
      Received word;
      if (early_.empty()) {
        word = TRY(Receive(control_.get(), deadline));
      } else {
        word = std::move(early_.front());
        early_.erase(early_.begin());
      }
      if (word.signal == Signal::kConsole) {
        init_.console = std::move(word.fd);
      } else if (word.signal == Signal::kHooks) {
        TRY(RunCreateHooks());
        TRY(SendSignal(control_.get(), Signal::kHooksDone));
        deadline = Deadline::After(options_.deadline_millis);  // hooks have timeouts of their own
      } else if (word.signal == Signal::kReady && word.ids.size() >= 2) {
        ProcessSpec& process = options_.spec.process;
        process.uid = word.ids[0];
        process.gid = word.ids[1];
        process.additional_gids.assign(word.ids.begin() + 2, word.ids.end());
        process.username.clear();
        return {};
      } else {
        return EndedEarly();
      }
    }
  }

  std::string State(const char* status) const { return HookState(options_, status, init_.pid); }

  Result<> RunCreateHooks() {
    TRY(RunHooks(options_.spec.hooks.prestart, State("created")));
    return RunHooks(options_.spec.hooks.create_runtime, State("created"));
  }

  CreateOptions options_;
  std::unique_ptr<Cgroup> cgroup_;
  Plan plan_;
  std::optional<SeccompFilter> filter_;
  std::vector<Received> early_;  // what init said before we knew it
  Process init_;
  UniqueFd control_;  // valid from created to started, or to released
  bool opened_ = false;
};

}  // namespace

Result<std::unique_ptr<Container>> Container::Create(CreateOptions options) {
  if (!IsSafeName(options.id))
    return MakeError(Code::kInvalidArgument, "container id '{}' cannot be one", options.id.substr(0, 128));
  auto planned = MakePlan(options.spec, options.bundle, options.rootfs);
  if (!planned) return std::move(planned.error()).Within("container '" + options.id + "'");
  if (!options.restorer.program.empty()) {
    auto possible = CheckRestorable(options.spec, *planned);
    if (!possible) return std::move(possible.error()).Within("container '" + options.id + "'");
  }
  CgroupOptions group;
  group.path = options.spec.cgroups_path;
  group.systemd = options.systemd_cgroup;
  group.resources = planned->resources;
  group.rootless = options.rootless;
  // Nobody but root may change the groups of a namespace that it has made itself (user_namespaces(7)).
  options.spec.process.keep_groups = planned->new_user_namespace && geteuid() != 0;
  auto cgroup = TRY(Cgroup::Create(group));
  auto container = std::make_unique<ContainerImpl>(std::move(options), std::move(cgroup), std::move(*planned));
  auto launched = container->Launch();
  if (!launched) {
    container->Undo();
    return std::move(launched.error());
  }
  return std::unique_ptr<Container>(std::move(container));
}

Result<> Container::Signal(const Process& process, int signal) {
  // Not reaped yet, so the number is still its own.
  if (kill(process.pid, signal) == 0 || errno == ESRCH) return {};
  return ErrnoError("send signal {} to process {}", signal, process.pid);
}

Result<std::unique_ptr<Container>> Container::Open(OpenOptions open) {
  auto planned = MakePlan(open.spec, open.bundle, {});
  if (!planned) return std::move(planned.error()).Within("container '" + open.id + "'");
  CgroupOptions group;
  group.path = open.spec.cgroups_path;
  group.systemd = open.systemd_cgroup;
  group.rootless = true;  // as much of it as there is
  auto cgroup = TRY(Cgroup::Open(group));
  CreateOptions options;
  options.id = std::move(open.id);
  options.bundle = std::move(open.bundle);
  options.spec = std::move(open.spec);
  options.systemd_cgroup = open.systemd_cgroup;
  options.seccomp_cache_dir = std::move(open.seccomp_cache_dir);
  options.rootless = open.rootless;
  options.die_with_parent = false;
  options.spec.process.keep_groups = planned->new_user_namespace && geteuid() != 0;
  auto container = std::make_unique<ContainerImpl>(std::move(options), std::move(cgroup), std::move(*planned));
  container->Find(open.pid, std::move(open.pidfd), std::move(open.gate));
  return std::unique_ptr<Container>(std::move(container));
}

void BecomeExec(const ExecTarget& target, const ExecOptions& exec, int init_pidfd, UniqueFd control) {
  RunExec({exec, init_pidfd, target, {}, false, control.get()});
}

}  // namespace caisson::oci

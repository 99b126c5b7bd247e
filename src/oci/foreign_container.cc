// SPDX-License-Identifier: Apache-2.0
#include "oci/foreign_container.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/id.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "oci/clone.h"
#include "oci/foreign_config.h"
#include "oci/identity.h"
#include "oci/overlay.h"
#include "oci/plan.h"
#include "sys/mountinfo.h"
#include "sys/new_file.h"
#include "sys/path.h"

namespace caisson::oci {
namespace {

constexpr int64_t kStartMillis = 60'000;
constexpr int64_t kCreateMillis = 60'000;
constexpr int64_t kDeleteMillis = 5'000;  // of the runtime's part; ours follows in any case
constexpr int64_t kSignalMillis = 5'000;
constexpr int64_t kConsoleMillis = 5'000;
constexpr int64_t kStatsMillis = 2'000;
// Up to CAP_AUDIT_READ: a sandbox's kernel is not the host's, and refuses to hear of what it does not have.
constexpr uint64_t kSandboxCapabilities = (uint64_t{1} << 38) - 1;
constexpr int kKilled = 128 + SIGKILL;

std::string FolderOf(const std::string& bundle) { return bundle + "/runtime"; }

Result<int> ReadPid(const std::string& path) {
  auto pid = ParseInt64(Trim(TRY(sys::ReadFile(path, 64))));
  if (!pid || *pid <= 0 || *pid > INT32_MAX) return MakeError(Code::kInternal, "the runtime has written no process id to '{}'", path);
  return static_cast<int>(*pid);
}

// MountLayers and CloneImage leave another working directory behind.
template <class F>
auto InPlace(F work) -> decltype(work()) {
  UniqueFd here(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  ScopeExit back([&] {
    if (here) (void)!fchdir(here.get());
  });
  return work();
}

// A container whose processes are the host's own.
class ForeignContainer : public Container {
 public:
  ForeignContainer(const ForeignOptions& foreign, CreateOptions options, Plan plan)
      : foreign_(foreign), options_(std::move(options)), plan_(std::move(plan)), folder_(FolderOf(options_.bundle)), log_(folder_ + "/log.json") {
    foreign_.runtime.systemd_cgroup = options_.systemd_cgroup;
  }

  const std::string& id() const override { return options_.id; }
  const Process& init() const override { return init_; }
  Process* mutable_init() override { return &init_; }
  Cgroup* cgroup() override { return cgroup_.get(); }
  const std::string& root_path() const override { return plan_.root_path; }
  const SeccompFilter* filter() const override { return nullptr; }
  const Spec& spec() const override { return options_.spec; }

  Result<> Launch() {
    TRY(Prepare());
    std::vector<std::string> command = {"create", "--bundle", folder_, "--pid-file", folder_ + "/pid"};
    if (options_.spec.process.terminal) terminal_ = TRY(OpenTerminal(&command));
    command.push_back(id());
    made_ = true;
    TRY(RunRuntime(foreign_.runtime, command, log_, options_.stdio, kCreateMillis));
    CgroupOptions group;
    group.path = options_.spec.cgroups_path;
    group.systemd = options_.systemd_cgroup;
    group.rootless = true;  // as much of it as the runtime has made
    cgroup_ = TRY(Cgroup::Open(group));
    TRY(FindInit());
    return HasHostProcesses() ? TakeStdio() : Result<>();
  }

  Result<> Release() override { return Impossible("gates"); }
  Result<> Adopt(int) override { return Impossible("checkpoints"); }
  Result<Process> StartDumper(const std::string&, UniqueFd) override { return Impossible("checkpoints"); }

  Result<> Start() override { return RunRuntime(foreign_.runtime, {"start", id()}, log_, Stdio(), kStartMillis); }

  Result<Process> Exec(ExecOptions exec) override {
    auto files = TRY(PrepareExec(&exec));
    ScopeExit clean([&] { files.Remove(); });
    std::vector<std::string> command = {"exec", "--process", files.process, "--pid-file", files.pid, "--detach"};
    Terminal terminal;
    if (exec.process.terminal) terminal = TRY(OpenTerminal(&command));
    command.push_back(id());
    TRY(RunRuntime(foreign_.runtime, command, files.log, exec.stdio, exec.deadline_millis));
    Process process;
    process.pid = TRY(ReadPid(files.pid));
    process.pidfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, process.pid, 0)));
    if (!process.pidfd) return ErrnoError("open process {}", process.pid);
    auto console = terminal.Take();
    if (!console) {
      KillAndReap(process.pidfd.get());
      return std::move(console.error());
    }
    process.console = std::move(*console);
    return process;
  }

  Result<> Kill(int signal, bool all) override {
    if (all) return cgroup_->Signal(signal);
    return SendTo(init_, signal);
  }
  Result<> Pause() override { return cgroup_->Freeze(Deadline::After(10'000)); }
  Result<> Resume() override { return cgroup_->Thaw(); }
  Result<> Update(std::string_view resources) override { return cgroup_->Apply(TRY(ParseResources(resources))); }
  Result<std::vector<int>> Pids() override { return cgroup_->Pids(); }

  Result<> Delete(int64_t deadline_millis) override {
    Deadline deadline = Deadline::After(deadline_millis);
    // It has state of its own to remove; if it cannot, nothing of the container's is there for it.
    if (std::exchange(made_, false)) {
      (void)RunRuntime(foreign_.runtime, {"delete", "--force", id()}, log_, Stdio(), std::min<int64_t>(kDeleteMillis, deadline.RemainingMillis()));
    }
    Result<> gone;
    if (cgroup_) gone = cgroup_->Delete(deadline);
    RemoveForeignRemains(options_.bundle);
    return gone;
  }

  // After a failed Launch.
  void Undo() {
    if (!cgroup_) {
      CgroupOptions group;
      group.path = options_.spec.cgroups_path;
      group.systemd = options_.systemd_cgroup;
      if (auto opened = Cgroup::Open(group)) cgroup_ = std::move(*opened);
    }
    if (cgroup_) (void)cgroup_->Kill(Deadline::After(10'000));
    KillAndReap(init_.pidfd.get());
    (void)Delete(10'000);
  }

 protected:
  // What one exec needs of files.
  struct ExecFiles {
    std::string process, pid, log;
    void Remove() const {
      for (const auto& path : {process, pid, log}) unlink(path.c_str());
    }
  };

  // Where the master of a process's terminal comes from; of one without a terminal there is none.
  struct Terminal {
    std::optional<ConsoleSocket> socket;
    Result<UniqueFd> Take() { return socket ? socket->Take(kConsoleMillis) : Result<UniqueFd>(UniqueFd()); }
  };
  // Says so in the runtime's command.
  Result<Terminal> OpenTerminal(std::vector<std::string>* command) const {
    Terminal terminal;
    terminal.socket.emplace(TRY(ConsoleSocket::Listen(folder_)));
    command->insert(command->end(), {"--console-socket", terminal.socket->path()});
    return terminal;
  }

  // When the runtime has passed the container its stdio.
  Result<> TakeStdio() {
    options_.stdio = Stdio();
    init_.console = TRY(std::exchange(terminal_, {}).Take());
    return {};
  }

  virtual Result<> FindInit() {
    init_.pid = TRY(ReadPid(folder_ + "/pid"));
    init_.pidfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, init_.pid, 0)));
    if (!init_.pidfd) return ErrnoError("open process {}", init_.pid);
    return {};
  }

  Result<> SendTo(const Process& process, int signal) {
    if (!process.pidfd) return {};
    if (syscall(SYS_pidfd_send_signal, process.pidfd.get(), signal, nullptr, 0) == 0 || errno == ESRCH) return {};
    return ErrnoError("send signal {} to container '{}'", signal, id());
  }

  Result<ExecFiles> PrepareExec(ExecOptions* exec) {
    ExecFiles files;
    std::string base = fmt::format("{}/exec-{}", folder_, ++execs_);
    files.process = base + ".json";
    files.pid = base + ".pid";
    files.log = base + ".log";
    TRY(Complete(&exec->process));
    TRY(sys::WriteNewFile(files.process, DumpJson(ForeignProcess(exec->process))));
    return files;
  }

  ForeignOptions foreign_;
  CreateOptions options_;
  Plan plan_;
  const std::string folder_, log_;
  std::unique_ptr<Cgroup> cgroup_;
  Process init_;
  Terminal terminal_;
  bool made_ = false;  // the runtime may know it
  uint64_t execs_ = 0;

 private:
  Error Impossible(const char* what) const {
    return MakeError(Code::kUnimplemented, "container '{}': a runtime of another project's knows no {}", id(), what);
  }

  // The user that a name means, and HOME, in the container's root.
  Result<> Complete(ProcessSpec* process) {
    UniqueFd root(open(plan_.root_path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!root) return ErrnoError("open '{}'", plan_.root_path);
    TRY(ResolveUser(root.get(), process));
    process->username.clear();
    process->env = CompleteEnvironment(root.get(), *process);
    if (HasHostProcesses() || !process->capabilities) return {};
    for (uint64_t* set : {&process->capabilities->bounding, &process->capabilities->effective, &process->capabilities->inheritable,
                          &process->capabilities->permitted, &process->capabilities->ambient}) {
      *set &= kSandboxCapabilities;
    }
    return {};
  }

  Result<> MountRoot() {
    for (const MountPlan& layer : plan_.root_mounts) {
      if (mkdir(layer.destination.c_str(), 0755) != 0 && errno != EEXIST) return ErrnoError("make '{}'", layer.destination);
      TRY(InPlace([&] { return MountLayers(layer, -1); }));
    }
    return {};
  }

  // The images that are volumes, each on a folder or file of the bundle's.
  Result<std::vector<std::string>> MountImages() {
    std::vector<std::string> paths;
    for (const MountSpec& mount : options_.spec.mounts) {
      if (mount.type != "caisson-image") continue;
      MountPlan plan = TRY(PlanMount(mount.destination, mount.type, mount.source, mount.options));
      std::string path = fmt::format("{}/image-{}", folder_, paths.size()), at = folder_ + "/image";
      if (mkdir(at.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make '{}'", at);
      UniqueFd tree = TRY(InPlace([&] { return CloneImage(plan, at, -1); }));
      struct stat info {};
      if (fstat(tree.get(), &info) != 0) return ErrnoError("mount '{}'", mount.destination);
      bool made = S_ISDIR(info.st_mode) ? mkdir(path.c_str(), 0755) == 0 : sys::WriteNewFile(path, "").has_value();
      if (!made || syscall(SYS_move_mount, tree.get(), "", AT_FDCWD, path.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
        return ErrnoError("mount the image of '{}' on '{}'", mount.destination, path);
      }
      paths.push_back(std::move(path));
    }
    return paths;
  }

  Result<> Prepare() {
    if (mkdir(foreign_.runtime.root.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make '{}'", foreign_.runtime.root);
    if (mkdir(folder_.c_str(), 0700) != 0) return ErrnoError("make '{}'", folder_);
    std::string text = TRY(sys::ReadFile(options_.bundle + "/config.json", limits::kJsonBytes));
    Json config = TRY(ParseJson(text));
    ForeignConfigInputs inputs;
    inputs.images = TRY(MountImages());
    TRY(MountRoot());
    TRY(Complete(&options_.spec.process));
    inputs.root_path = plan_.root_path;
    inputs.process = options_.spec.process;
    inputs.shm_path = foreign_.shm_path;
    inputs.annotations = foreign_.annotations;
    TRY(MakeForeign(inputs, &config));
    config["linux"]["cgroupsPath"] = options_.spec.cgroups_path;
    options_.spec.seccomp.reset();  // the runtime's to apply
    return sys::WriteNewFile(folder_ + "/config.json", DumpJson(config));
  }
};

// A container in a kernel of the runtime's. None of its processes is the host's: in the place of its init stands a child of ours
// that asks the runtime for its end, and ends in the same way; in that of a process exec'd into it, the runtime that waits for it.
class SandboxedContainer : public ForeignContainer {
 public:
  using ForeignContainer::ForeignContainer;

  bool HasHostProcesses() const override { return false; }

  Result<> Start() override {
    // It is the process that starts the container whose stdio becomes the container's; for the pod's first one that which creates it.
    TRY(RunRuntime(foreign_.runtime, {"start", id()}, log_, options_.stdio, kStartMillis));
    TRY(TakeStdio());
    if (char go = 1; write(watcher_.get(), &go, 1) != 1) return ErrnoError("watch container '{}'", id());
    watcher_.Reset();
    started_ = true;
    return {};
  }

  Result<Process> Exec(ExecOptions exec) override {
    auto files = TRY(PrepareExec(&exec));
    ScopeExit clean([&] { files.Remove(); });
    std::vector<std::string> command = {"exec", "--process", files.process, "--internal-pid-file", files.pid};
    // Who waits for the process passes it its own stdio, and takes no console socket.
    UniqueFd master;
    if (exec.process.terminal) master = TRY(TerminalAsStdio(exec.process, &exec.stdio));
    command.push_back(id());
    UniqueFd changes(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!changes || inotify_add_watch(changes.get(), folder_.c_str(), IN_CLOSE_WRITE) < 0) return ErrnoError("watch '{}'", folder_);
    Process process = TRY(StartRuntime(foreign_.runtime, command, files.log, exec.stdio));
    (void)Group()->Attach(process.pid);
    auto inner = AwaitExec(process, changes.get(), files, Deadline::After(exec.deadline_millis));
    if (!inner) {
      KillAndReap(process.pidfd.get());
      return std::move(inner.error());
    }
    inner_[process.pid] = *inner;
    process.console = std::move(master);
    return process;
  }

  Result<> Kill(int signal, bool all) override {
    if (!started_) return SendTo(init_, SIGKILL);
    std::vector<std::string> command = {"kill"};
    if (all) command.emplace_back("--all");
    command.insert(command.end(), {id(), fmt::format("{}", signal)});
    auto killed = RunRuntime(foreign_.runtime, command, log_, Stdio(), kSignalMillis);
    if (killed || IsOver()) return {};
    return killed;
  }

  Result<> Signal(const Process& process, int signal) override {
    auto inner = inner_.find(process.pid);
    if (inner == inner_.end()) return Kill(signal, false);
    Result<> sent;
    for (int pid : signal == SIGKILL ? TreeOf(inner->second) : std::vector<int>{inner->second}) {
      auto one = RunRuntime(foreign_.runtime, {"kill", "--pid", fmt::format("{}", pid), id(), fmt::format("{}", signal)}, log_, Stdio(), kSignalMillis);
      if (pid == inner->second) sent = std::move(one);
    }
    // At least nobody waits for it any more.
    if (!sent && signal == SIGKILL) return SendTo(process, SIGKILL);
    return sent;
  }

  Result<> Pause() override { return RunRuntime(foreign_.runtime, {"pause", id()}, log_, Stdio(), kSignalMillis); }
  Result<> Resume() override { return RunRuntime(foreign_.runtime, {"resume", id()}, log_, Stdio(), kSignalMillis); }
  Result<> Update(std::string_view) override {
    return MakeError(Code::kUnimplemented, "container '{}': its runtime '{}' enforces no limits of single containers", id(), foreign_.runtime.program);
  }
  Result<std::vector<int>> Pids() override { return std::vector<int>(); }

  // The runtime's own figures; its sandbox is in a cgroup that all containers share.
  Result<CgroupStats> Stats(StatsPart part) override {
    CgroupStats stats = TRY(cgroup_->Stats(part));
    std::string text = TRY(AskRuntime(foreign_.runtime, {"events", "--stats", id()}, log_, kStatsMillis));
    Json event = TRY(ParseJson(Trim(text)));
    auto number = [&](const char* pointer, uint64_t* to) {
      auto at = nlohmann::json::json_pointer(pointer);
      if (event.contains(at) && event[at].is_number_unsigned()) *to = event[at].get<uint64_t>();
    };
    number("/data/cpu/usage/total", &stats.cpu.usage_nanos);
    number("/data/memory/usage/usage", &stats.memory.usage);
    number("/data/pids/current", &stats.pids.current);
    stats.memory.working_set = stats.memory.rss = stats.memory.usage;
    return stats;
  }

  Result<> Delete(int64_t deadline_millis) override {
    watcher_.Reset();
    auto deleted = ForeignContainer::Delete(deadline_millis);
    KillAndReapWatcher();
    return deleted;
  }

 protected:
  Result<> FindInit() override {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("make a pipe");
    UniqueFd reader(ends[0]);
    watcher_ = UniqueFd(ends[1]);
    Cloned cloned = TRY(Clone(0, -1));
    if (cloned.pid == 0) {
      watcher_.Reset();
      Watch(reader.get());
    }
    init_.pid = cloned.pid;
    init_.pidfd = std::move(cloned.pidfd);
    return Group()->Attach(init_.pid);
  }

 private:
  Cgroup* Group() { return foreign_.sandbox != nullptr ? foreign_.sandbox : cgroup_.get(); }

  // In the child.
  [[noreturn]] void Watch(int go) {
    (void)setsid();
    // None of what is the companion's: its pipes have to break when it lets go of them.
    if (dup2(go, 3) != 3 || syscall(SYS_close_range, 4u, ~0u, 0u) != 0) _exit(kKilled);
    go = 3;
    char word = 0;
    ssize_t got;
    while ((got = read(go, &word, 1)) < 0 && errno == EINTR) {
    }
    if (got != 1) _exit(kKilled);
    auto text = AskRuntime(foreign_.runtime, {"wait", id()}, folder_ + "/wait.json", INT64_MAX / 2'000'000);
    auto answer = text ? ParseJson(Trim(*text)) : Result<Json>(MakeError(Code::kUnavailable, "no answer"));
    if (!answer || !answer->is_object()) _exit(kKilled);  // its sandbox has ended
    auto status = answer->find("exitStatus");
    _exit(status != answer->end() && status->is_number_integer() ? status->get<int>() & 0xff : kKilled);
  }

  // The master of a new terminal whose other side is in place of the three.
  static Result<UniqueFd> TerminalAsStdio(const ProcessSpec& process, Stdio* stdio) {
    UniqueFd master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!master || unlockpt(master.get()) != 0) return ErrnoError("open a terminal");
    winsize size{process.console_height, process.console_width, 0, 0};
    if (size.ws_col != 0) ioctl(master.get(), TIOCSWINSZ, &size);
    for (UniqueFd* end : {&stdio->in, &stdio->out, &stdio->err}) {
      *end = UniqueFd(ioctl(master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
      if (!*end) return ErrnoError("open a terminal's other side");
    }
    return master;
  }

  // The process's id in the sandbox.
  Result<int> AwaitExec(const Process& process, int changes, const ExecFiles& files, const Deadline& deadline) {
    for (;;) {
      pollfd waits[2] = {{process.pidfd.get(), POLLIN, 0}, {changes, POLLIN, 0}};
      int ready = poll(waits, 2, deadline.RemainingMillis());
      if (ready < 0 && errno == EINTR) continue;
      if (ready <= 0) return MakeError(Code::kDeadlineExceeded, "'{} exec' has started nothing in time", foreign_.runtime.program);
      char events[4096];
      while (read(changes, events, sizeof events) > 0) {
      }
      if (auto pid = ReadPid(files.pid)) return pid;
      if (waits[0].revents == 0) continue;
      return MakeError(Code::kInternal, "'{} exec': {}", foreign_.runtime.program, SaidIn(files.log, "it has started nothing"));
    }
  }

  // The process and all that came of it, by the sandbox's own list.
  std::vector<int> TreeOf(int root) {
    std::vector<int> tree = {root};
    // Columns UID, PID, PPID and more.
    const auto text = AskRuntime(foreign_.runtime, {"ps", id()}, log_, kSignalMillis);
    const std::string table = text ? *text : std::string();
    std::vector<std::pair<int, int>> parents;
    for (std::string_view line : Split(table, '\n')) {
      int pid = 0, parent = 0;
      if (sscanf(std::string(line).c_str(), "%*s %d %d", &pid, &parent) == 2) parents.emplace_back(pid, parent);
    }
    for (size_t i = 0; i < tree.size(); ++i) {
      for (auto [pid, parent] : parents) {
        if (parent == tree[i] && pid > 1 && std::find(tree.begin(), tree.end(), pid) == tree.end()) tree.push_back(pid);
      }
    }
    return tree;
  }

  bool IsOver() const {
    pollfd ended{init_.pidfd.get(), POLLIN, 0};
    return poll(&ended, 1, 0) == 1;
  }

  void KillAndReapWatcher() {
    if (!init_.pidfd || IsOver()) return;
    (void)SendTo(init_, SIGKILL);
  }

  UniqueFd watcher_;  // to it, until the start
  bool started_ = false;
  std::map<int, int> inner_;  // ids in the sandbox by those of our children
};

}  // namespace

Result<std::unique_ptr<Container>> CreateForeign(const ForeignOptions& foreign, CreateOptions options) {
  if (!IsSafeName(options.id)) return MakeError(Code::kInvalidArgument, "container id '{}' cannot be one", options.id.substr(0, 128));
  if (!options.restorer.program.empty()) {
    return MakeError(Code::kUnimplemented, "container '{}': a runtime of another project's restores no checkpoint of ours", options.id);
  }
  auto planned = MakePlan(options.spec, options.bundle, options.rootfs);
  if (!planned) return std::move(planned.error()).Within("container '" + options.id + "'");
  auto container = foreign.runtime.sandboxed ? std::make_unique<SandboxedContainer>(foreign, std::move(options), std::move(*planned))
                                             : std::make_unique<ForeignContainer>(foreign, std::move(options), std::move(*planned));
  auto launched = container->Launch();
  if (!launched) {
    container->Undo();
    return std::move(launched.error());
  }
  return std::unique_ptr<Container>(std::move(container));
}

void RemoveForeignRemains(const std::string& bundle) {
  if (auto mounts = sys::ReadMountInfo()) {
    // What is mounted later is below or above what was there before.
    for (auto mount = mounts->rbegin(); mount != mounts->rend(); ++mount) {
      if (mount->mount_point.starts_with(bundle + "/")) umount2(mount->mount_point.c_str(), MNT_DETACH);
    }
  }
  std::error_code ignored;
  std::filesystem::remove_all(FolderOf(bundle), ignored);
}

}  // namespace caisson::oci

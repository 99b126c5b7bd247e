// SPDX-License-Identifier: Apache-2.0
#include "agent/launched_container.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "agent/early_init.h"
#include "agent/process_message.h"
#include "base/log.h"
#include "caisson/guest/v1/launch.pb.h"
#include "caisson/wkt/wkt.pb.h"
#include "oci/control.h"

namespace caisson::agent {
namespace {

namespace v1 = guest::v1;

// The socket at which a container's init waits for its start.
class Gate {
 public:
  static Result<Gate> Make() {
    static uint64_t last = 0;
    Gate gate;
    gate.path_ = fmt::format("{}/{}", kGatesDir, ++last);
    gate.listener_ = UniqueFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!gate.listener_) return ErrnoError("make a gate");
    sockaddr_un address = gate.Address();
    if (bind(gate.listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(gate.listener_.get(), 1) != 0) {
      return ErrnoError("make the gate '{}'", gate.path_);
    }
    return gate;
  }
  Gate() = default;
  Gate(Gate&& other) noexcept : path_(std::exchange(other.path_, {})), listener_(std::move(other.listener_)) {}
  Gate& operator=(Gate&&) = delete;
  ~Gate() {
    if (!path_.empty()) unlink(path_.c_str());
  }

  const UniqueFd& listener() const { return listener_; }
  void CloseListener() { listener_.Reset(); }
  Result<UniqueFd> Connect() const {
    UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address = Address();
    if (!fd || connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return ErrnoError("reach the gate '{}'", path_);
    return fd;
  }

 private:
  sockaddr_un Address() const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.c_str(), std::min(path_.size(), sizeof address.sun_path - 1));
    return address;
  }

  std::string path_;
  UniqueFd listener_;
};

template <class Request>
void PassStdio(const oci::Stdio& stdio, Request* request, std::vector<int>* fds) {
  auto pass = [&](const UniqueFd& fd, void (Request::*say)(bool)) {
    if (!fd) return;
    (request->*say)(true);
    fds->push_back(fd.get());
  };
  pass(stdio.in, &Request::set_has_stdin);
  pass(stdio.out, &Request::set_has_stdout);
  pass(stdio.err, &Request::set_has_stderr);
}

class LaunchedContainer : public oci::Container {
 public:
  LaunchedContainer(Launches* launches, Gate gate, oci::CreateOptions options)
      : launches_(launches), gate_(std::move(gate)), id_(std::move(options.id)), bundle_(std::move(options.bundle)), spec_(std::move(options.spec)),
        root_path_(bundle_ + "/rootfs"), deadline_millis_(options.deadline_millis) {}

  Result<> Launch(const std::vector<oci::RootfsMount>& rootfs, const oci::Stdio& stdio) {
    v1::CreateContainerRequest request;
    request.set_id(id_);
    request.set_bundle(bundle_);
    request.set_cgroups_path(spec_.cgroups_path);
    request.set_terminal(spec_.process.terminal);
    for (const auto& mount : rootfs) {
      auto* one = request.add_rootfs();
      one->set_type(mount.type);
      one->set_source(mount.source);
      for (const auto& option : mount.options) one->add_options(option);
    }
    std::vector<int> fds;
    PassStdio(stdio, &request, &fds);
    fds.push_back(gate_.listener().get());
    std::vector<UniqueFd> got;
    auto made = TRY((launches_->Call<v1::CreateContainerRequest, v1::CreateContainerResponse>("CreateContainer", request, fds, &got)));
    gate_.CloseListener();
    TRY(TakeProcess(made.pid(), &got, &init_));
    oci::ProcessSpec& process = spec_.process;
    process.uid = made.uid();
    process.gid = made.gid();
    process.additional_gids.assign(made.additional_gids().begin(), made.additional_gids().end());
    process.username.clear();
    spec_.seccomp.reset();  // the launchers' to apply
    auto cgroup = oci::Cgroup::Open({spec_.cgroups_path, false, {}, true});
    if (!cgroup) {
      (void)Delete(deadline_millis_);
      return std::move(cgroup.error());
    }
    cgroup_ = std::move(*cgroup);
    return {};
  }

  const std::string& id() const override { return id_; }
  const oci::Process& init() const override { return init_; }
  oci::Process* mutable_init() override { return &init_; }
  oci::Cgroup* cgroup() override { return cgroup_.get(); }
  const std::string& root_path() const override { return root_path_; }
  const oci::SeccompFilter* filter() const override { return nullptr; }
  const oci::Spec& spec() const override { return spec_; }

  Result<> Release() override { return MakeError(Code::kFailedPrecondition, "container '{}' has been released", id_); }
  Result<> Start() override { return oci::StartAtGate(id_, TRY(gate_.Connect()), deadline_millis_); }
  Result<> Adopt(int) override { return NoCheckpoints(); }
  Result<oci::Process> StartDumper(const std::string&, UniqueFd) override { return NoCheckpoints(); }

  Result<oci::Process> Exec(oci::ExecOptions options) override {
    v1::ExecProcessRequest request;
    request.set_id(id_);
    request.set_bundle(bundle_);
    *request.mutable_process() = MessageOf(options.process);
    auto control = TRY(oci::MakeControlPair());
    std::vector<int> fds = {control.child.get(), init_.pidfd.get()};
    PassStdio(options.stdio, &request, &fds);
    Birthplace place;
    if (spec_.FindNamespace(CLONE_NEWPID) != nullptr) place.pid_namespace = UniqueFd(fcntl(init_.pidfd.get(), F_DUPFD_CLOEXEC, 3));
    place.cgroup = UniqueFd(fcntl(cgroup_->CloneIntoFd(), F_DUPFD_CLOEXEC, 3));
    cgroup_->CloseFds();
    std::vector<UniqueFd> got;
    oci::Process process;
    auto born = launches_->CallIn<v1::ExecProcessRequest, wkt::Empty>(place, "ExecProcess", request, fds, &got, &process.pid);
    if (!born && !IsTold(born.error())) {
      // A container that has enabled controllers for groups of its own, or has ended.
      auto below = cgroup_->GroupBelowOf(init_.pid);
      if (!below) return MakeError(Code::kFailedPrecondition, "container '{}' is not running", id_);
      place.cgroup = std::move(*below);
      born = launches_->CallIn<v1::ExecProcessRequest, wkt::Empty>(place, "ExecProcess", request, fds, &got, &process.pid);
    }
    if (!born) return std::move(born.error());
    if (got.size() != 1 || process.pid == 0) return MakeError(Code::kInternal, "container '{}': its launcher gave no process", id_);
    process.pidfd = std::move(got[0]);
    control.child.Reset();
    options.stdio = oci::Stdio();
    process.console = TRY(oci::AwaitExec(id_, control.parent.get(), options.deadline_millis));
    return process;
  }

  Result<> Kill(int signal, bool all) override {
    if (!all) return Signal(init_, signal);
    v1::GroupRequest request = Group(v1::GroupRequest::SIGNAL);
    request.set_signal(signal);
    return Change(request);
  }
  Result<> Signal(const oci::Process& process, int signal) override {
    v1::SignalProcessRequest request;
    request.set_signal(signal);
    TRY((launches_->Call<v1::SignalProcessRequest, wkt::Empty>("SignalProcess", request, {process.pidfd.get()})));
    return {};
  }
  Result<> EndAll(int64_t deadline_millis) override {
    v1::GroupRequest request = Group(v1::GroupRequest::KILL);
    request.set_deadline_millis(deadline_millis);
    return Change(request);
  }
  Result<> Pause() override { return Change(Group(v1::GroupRequest::FREEZE)); }
  Result<> Resume() override { return Change(Group(v1::GroupRequest::THAW)); }
  Result<> Update(std::string_view resources) override {
    v1::GroupRequest request = Group(v1::GroupRequest::UPDATE);
    request.set_resources(std::string(resources));
    return Change(request);
  }
  Result<std::vector<int>> Pids() override { return cgroup_->Pids(); }
  Result<> Delete(int64_t deadline_millis) override {
    v1::GroupRequest request = Group(v1::GroupRequest::DELETE);
    request.set_deadline_millis(deadline_millis);
    return Change(request);
  }

 private:
  // By a launcher; else there was none, or it has died.
  static bool IsTold(const Error& error) {
    return error.code != Code::kUnavailable && error.sys_errno != EPIPE && error.sys_errno != ECONNRESET;
  }
  Error NoCheckpoints() const { return MakeError(Code::kUnimplemented, "container '{}': there are no checkpoints in a VM", id_); }

  Result<> TakeProcess(int pid, std::vector<UniqueFd>* got, oci::Process* process) const {
    if (got->empty()) return MakeError(Code::kInternal, "container '{}': its launcher gave no process", id_);
    process->pid = pid;
    process->pidfd = std::move((*got)[0]);
    if (got->size() > 1) process->console = std::move((*got)[1]);
    return {};
  }

  v1::GroupRequest Group(v1::GroupRequest::Verb verb) const {
    v1::GroupRequest request;
    request.set_cgroups_path(spec_.cgroups_path);
    request.set_verb(verb);
    return request;
  }
  Result<> Change(const v1::GroupRequest& request) {
    TRY((launches_->Call<v1::GroupRequest, wkt::Empty>("ChangeGroup", request)));
    return {};
  }

  Launches* launches_;
  Gate gate_;
  std::string id_, bundle_;
  oci::Spec spec_;
  std::string root_path_;
  int64_t deadline_millis_;
  std::unique_ptr<oci::Cgroup> cgroup_;
  oci::Process init_;
};

}  // namespace

Result<std::unique_ptr<oci::Container>> CreateLaunched(Launches* launches, oci::CreateOptions options) {
  Gate gate = TRY(Gate::Make());
  std::vector<oci::RootfsMount> rootfs = std::move(options.rootfs);
  oci::Stdio stdio = std::move(options.stdio);
  auto container = std::make_unique<LaunchedContainer>(launches, std::move(gate), std::move(options));
  TRY(container->Launch(rootfs, stdio));
  return std::unique_ptr<oci::Container>(std::move(container));
}

void KillLaunchedTree(Launches* launches, const oci::Container& container, const oci::Process* process, const std::vector<ino_t>& pipes) {
  v1::KillTreeRequest request;
  request.set_cgroups_path(container.spec().cgroups_path);
  request.set_init(container.init().pid);
  std::vector<int> fds;
  if (process != nullptr) {
    request.set_root(process->pid);
    fds.push_back(process->pidfd.get());
  }
  for (ino_t pipe : pipes) request.add_pipes(pipe);
  auto killed = launches->Call<v1::KillTreeRequest, wkt::Empty>("KillTree", request, fds);
  if (!killed) log::Error("container '{}': {}", container.id(), killed.error().message);
}

}  // namespace caisson::agent

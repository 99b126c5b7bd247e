// SPDX-License-Identifier: Apache-2.0
#include "shim/native_pod.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <tuple>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "oci/user_namespace.h"
#include "shim/cgroup_record.h"
#include "sys/sysctl.h"

namespace caisson::shim {
namespace {

oci::IdMaps MapsOf(const pod::v1::SandboxOptions& options) {
  auto list = [](const auto& maps) {
    std::vector<oci::IdMapping> ranges;
    for (const auto& map : maps) ranges.push_back({map.container_id(), map.host_id(), map.size()});
    return ranges;
  };
  return {list(options.uid_maps()), list(options.gid_maps())};
}

Result<> CheckUserNamespace(const oci::IdMaps& maps, const pod::v1::SandboxOptions& options) {
  TRY(oci::CheckIdMappings(maps.uids, "uid_maps"));
  TRY(oci::CheckIdMappings(maps.gids, "gid_maps"));
  if (!oci::ToHostId(maps.uids, 0) || !oci::ToHostId(maps.gids, 0)) {
    return MakeError(Code::kInvalidArgument, "a pod's user namespace needs a root, but its maps have none");
  }
  if (options.host_ipc()) return MakeError(Code::kInvalidArgument, "a pod with a user namespace cannot have the host's IPC namespace");
  return {};
}

Result<> WriteSysctls(const pod::v1::SandboxOptions& options) {
  for (const auto& [name, value] : options.sysctls()) TRY(sys::WriteSysctl(name, value));
  return {};
}

}  // namespace

NativePod::~NativePod() { (void)Stop(kStopMillis); }

Result<> NativePod::MakeUserNamespace(const oci::IdMaps& maps, const pod::v1::SandboxOptions& options) {
  int flags = CLONE_NEWIPC | (options.host_network() ? 0 : CLONE_NEWNET) | (options.hostname().empty() ? 0 : CLONE_NEWUTS);
  // By its root: those of the IPC namespace belong to it alone (ipc_sysctl.c), whatever rights others have.
  auto made = TRY(oci::MakeUserNamespace(maps, static_cast<unsigned long>(flags), [&] { return WriteSysctls(options); }));
  for (auto [fd, flag, name] : {std::tuple(&made.network, CLONE_NEWNET, "network"),
                                {&made.ipc, CLONE_NEWIPC, "IPC"},
                                {&made.uts, CLONE_NEWUTS, "UTS"}}) {
    if (*fd && setns(fd->get(), flag) != 0) return ErrnoError("enter the pod's {} namespace", name);
  }
  user_namespace_ = std::move(made.user);
  return {};
}

Result<> NativePod::EnterNamespaces(const std::string& netns_path, const pod::v1::SandboxOptions& options) {
  if (!options.host_network()) {
    UniqueFd netns(open(netns_path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!netns) return ErrnoError("open the pod's network namespace '{}'", netns_path);
    if (setns(netns.get(), CLONE_NEWNET) != 0) return ErrnoError("enter the pod's network namespace '{}'", netns_path);
  }
  int flags = (options.host_ipc() ? 0 : CLONE_NEWIPC) | (options.hostname().empty() ? 0 : CLONE_NEWUTS);
  if (flags != 0 && unshare(flags) != 0) return ErrnoError("make the pod's IPC and UTS namespaces");
  return {};
}

Result<> NativePod::Make(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options) {
  TRY(CheckFresh());
  oci::IdMaps maps = MapsOf(options);
  if (!maps.empty()) TRY(CheckUserNamespace(maps, options));
  if (!bundle.starts_with('/')) return MakeError(Code::kInvalidArgument, "pod sandbox '{}': its bundle '{}' is not absolute", id(), bundle);
  for (const auto& [name, value] : options.sysctls()) {
    TRY(sys::CheckPodSysctl(name, value, options.host_network(), options.host_ipc()));
  }
  bundle_ = bundle;
  state_ = State::kFailed;
  if (maps.empty()) {
    TRY(EnterNamespaces(netns_path, options));
    TRY(WriteSysctls(options));
  } else {
    TRY(MakeUserNamespace(maps, options));
  }
  if (!options.hostname().empty() && sethostname(options.hostname().data(), options.hostname().size()) != 0) {
    return ErrnoError("set the pod's hostname '{}'", options.hostname());
  }
  if (!options.host_ipc()) {
    shm_ = TRY(task::PodShm::Make(options.shm_bytes(), oci::ToHostId(maps.uids, 0).value_or(0), oci::ToHostId(maps.gids, 0).value_or(0),
                                  bundle_ + "/shm", options.has_runtime()));
  }
  share_pid_ = options.share_pid();
  task::TasksOptions tasks = tasks_->options();
  tasks.seccomp_cache_dir = seccomp_cache_dir_;
  tasks.systemd_cgroup = options.systemd_cgroup();
  tasks.pod_cgroup = options.cgroup_parent();
  tasks.shm_fd = shm_.fd();
  if (!tasks.on_cgroup) tasks.on_cgroup = [this](const std::string&, const std::string& path, bool systemd) { return RecordCgroup(bundle_, path, systemd); };
  // A shim's containers are its pod's affair (foreign_pod.h).
  if (options.has_runtime() && options.runtime().type().empty()) TRY(PrepareRuntime(options, &tasks));
  tasks_->set_options(std::move(tasks));
  created_at_nanos_ = NowNanos();
  state_ = State::kCreated;
  return {};
}

Result<> NativePod::StartInit() {
  if (state_ != State::kCreated) return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not in the state 'created'", id());
  if (share_pid_) {
    init_.emplace(TRY(task::PodInit::Start(user_namespace_.get())));
    TRY(tasks_->loop()->Watch(init_->pidfd(), EPOLLIN, [this](uint32_t) { OnInitDeath(); }));
  }
  TRY(StartRuntimeSandbox());
  state_ = State::kReady;
  return {};
}

Result<> NativePod::PrepareRuntime(const pod::v1::SandboxOptions& options, task::TasksOptions* tasks) {
  if (!options.uid_maps().empty()) return MakeError(Code::kUnimplemented, "a pod with a user namespace cannot have a runtime of another project's");
  runtime_ = TRY(OciRuntime::Make(id(), bundle_, options.host_ipc() ? "" : bundle_ + "/shm", options));
  tasks->make_container = [this](oci::CreateOptions container) { return runtime_->Create(std::move(container)); };
  return {};
}

Result<> NativePod::StartRuntimeSandbox() {
  if (!runtime_) return {};
  TRY(runtime_->StartSandbox(init_ ? fmt::format("/proc/{}/ns/pid", init_->pid()) : std::string()));
  if (runtime_->sandbox_pidfd() < 0) return {};
  return tasks_->loop()->Watch(runtime_->sandbox_pidfd(), EPOLLIN, [this](uint32_t) {
    log::Error("the sandbox of the pod's runtime has ended: the pod ends");
    (void)Stop(kStopMillis);
  });
}

// Someone on the host has killed it; the kernel has ended every process of the namespace.
void NativePod::OnInitDeath() {
  log::Error("the init of the pod's PID namespace was killed: the pod ends");
  (void)Stop(kStopMillis);
}

int NativePod::SandboxPid() const { return init_ ? init_->pid() : getpid(); }

Result<> NativePod::Stop(int64_t deadline_millis) {
  if (state_ == State::kStopped) return {};
  if (runtime_ && runtime_->sandbox_pidfd() >= 0) {
    tasks_->loop()->Unwatch(runtime_->sandbox_pidfd());
    runtime_->KillSandbox();
  }
  auto destroyed = tasks_->DestroyAll(deadline_millis);
  if (runtime_ && destroyed) destroyed = runtime_->RemoveSandbox(deadline_millis);
  if (init_ && init_->pidfd() >= 0) {
    tasks_->loop()->Unwatch(init_->pidfd());
    init_->Kill();
  }
  TRY(std::move(destroyed));
  shm_.Remove();
  user_namespace_.Reset();
  SetStopped();
  return {};
}

std::map<std::string, std::string> NativePod::Info() const {
  if (!user_namespace_) return {};
  return {{"user_namespace", fmt::format("/proc/{}/fd/{}", getpid(), user_namespace_.get())}};
}

}  // namespace caisson::shim

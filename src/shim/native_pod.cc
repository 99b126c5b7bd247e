// SPDX-License-Identifier: Apache-2.0
#include "shim/native_pod.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <tuple>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "containerd/sandbox.pb.h"
#include "oci/user_namespace.h"
#include "shim/cgroup_record.h"
#include "sys/sysctl.h"

namespace caisson::shim {
namespace {

namespace v1 = containerd::runtime::sandbox::v1;

constexpr int64_t kStopMillis = 10'000;
constexpr int64_t kDefaultShmBytes = 64 << 20;

void SetTime(int64_t nanos, wkt::Timestamp* time) {
  time->set_seconds(nanos / kNanosPerSecond);
  time->set_nanos(static_cast<int32_t>(nanos % kNanosPerSecond));
}

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

// A tmpfs that no one sees but through this descriptor; before Linux 6.15 a detached mount cannot be cloned, and it is
// mounted in the bundle instead.
Result<> NativePod::MakeShm(int64_t bytes, const oci::IdMaps& maps) {
  std::string size = fmt::format("{}", bytes > 0 ? bytes : kDefaultShmBytes);
  UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC)));
  if (!context) return ErrnoError("open a tmpfs for /dev/shm");
  auto set = [&](const char* key, const char* value) { return syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, key, value, 0) == 0; };
  std::string uid = fmt::format("{}", oci::ToHostId(maps.uids, 0).value_or(0));
  std::string gid = fmt::format("{}", oci::ToHostId(maps.gids, 0).value_or(0));
  if (!set("source", "shm") || !set("mode", "1777") || !set("size", size.c_str()) || !set("uid", uid.c_str()) || !set("gid", gid.c_str()) ||
      syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return ErrnoError("configure a tmpfs of {} bytes for /dev/shm", size);
  }
  shm_ = UniqueFd(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)));
  if (!shm_) return ErrnoError("mount a tmpfs for /dev/shm");
  UniqueFd probe(static_cast<int>(syscall(SYS_open_tree, shm_.get(), "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
  if (probe) return {};
  std::string at = bundle_ + "/shm";
  if (mkdir(at.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make '{}'", at);
  if (syscall(SYS_move_mount, shm_.get(), "", AT_FDCWD, at.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) return ErrnoError("mount /dev/shm on '{}'", at);
  shm_attached_ = true;
  return {};
}

Result<> NativePod::Create(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options) {
  if (state_ == State::kFailed) return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' has failed to be created", id_);
  if (state_ != State::kNone) return MakeError(Code::kAlreadyExists, "pod sandbox '{}' exists already", id_);
  oci::IdMaps maps = MapsOf(options);
  if (!maps.empty()) TRY(CheckUserNamespace(maps, options));
  if (!bundle.starts_with('/')) return MakeError(Code::kInvalidArgument, "pod sandbox '{}': its bundle '{}' is not absolute", id_, bundle);
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
  if (!options.host_ipc()) TRY(MakeShm(options.shm_bytes(), maps));
  share_pid_ = options.share_pid();
  task::TasksOptions tasks;
  tasks.seccomp_cache_dir = seccomp_cache_dir_;
  tasks.systemd_cgroup = options.systemd_cgroup();
  tasks.pod_cgroup = options.cgroup_parent();
  tasks.shm_fd = shm_.get();
  tasks.on_cgroup = [this](const std::string& path, bool systemd) { return RecordCgroup(bundle_, path, systemd); };
  tasks_->set_options(std::move(tasks));
  created_at_nanos_ = NowNanos();
  state_ = State::kCreated;
  return {};
}

Result<> NativePod::Start() {
  if (state_ != State::kCreated) return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not in the state 'created'", id_);
  if (share_pid_) {
    init_.emplace(TRY(PodInit::Start(user_namespace_.get())));
    TRY(tasks_->loop()->Watch(init_->pidfd(), EPOLLIN, [this](uint32_t) { OnInitDeath(); }));
  }
  state_ = State::kReady;
  return {};
}

// Someone on the host has killed it; the kernel has ended every process of the namespace.
void NativePod::OnInitDeath() {
  log::Error("the init of the pod's PID namespace was killed: the pod ends");
  (void)Stop(kStopMillis);
}

int NativePod::SandboxPid() const { return init_ ? init_->pid() : getpid(); }

Result<> NativePod::Stop(int64_t deadline_millis) {
  if (state_ == State::kStopped) return {};
  auto destroyed = tasks_->DestroyAll(deadline_millis);
  if (init_ && init_->pidfd() >= 0) {
    tasks_->loop()->Unwatch(init_->pidfd());
    init_->Kill();
  }
  TRY(std::move(destroyed));
  if (shm_attached_) umount2((bundle_ + "/shm").c_str(), MNT_DETACH);
  shm_.Reset();
  user_namespace_.Reset();
  state_ = State::kStopped;
  exited_at_nanos_ = NowNanos();
  for (auto& waiter : std::exchange(waiters_, {})) waiter();
  return {};
}

const char* NativePod::StateName() const {
  // containerd's words (its sandbox controller compares them).
  return state_ == State::kReady ? "SANDBOX_READY" : "SANDBOX_NOTREADY";
}

void NativePod::Register(ttrpc::Server* server) {
  constexpr char kService[] = "containerd.runtime.sandbox.v1.Sandbox";
  server->HandleTyped<v1::CreateSandboxRequest, v1::CreateSandboxResponse>(kService, "CreateSandbox", [this](const auto& request, auto respond) {
    pod::v1::SandboxOptions options;
    if (!request.options().type_url().ends_with(kSandboxOptionsType) || !options.ParseFromString(request.options().value())) {
      return respond(MakeError(Code::kInvalidArgument, "pod sandbox '{}': its options are not {}", id_, kSandboxOptionsType));
    }
    auto created = Create(request.bundle_path(), request.netns_path(), options);
    if (!created) return respond(std::move(created.error()));
    respond(v1::CreateSandboxResponse());
  });
  server->HandleTyped<v1::StartSandboxRequest, v1::StartSandboxResponse>(kService, "StartSandbox", [this](const auto&, auto respond) {
    auto started = Start();
    if (!started) return respond(std::move(started.error()));
    v1::StartSandboxResponse response;
    response.set_pid(static_cast<uint32_t>(SandboxPid()));
    SetTime(created_at_nanos_, response.mutable_created_at());
    respond(std::move(response));
  });
  server->HandleTyped<v1::StopSandboxRequest, v1::StopSandboxResponse>(kService, "StopSandbox", [this](const auto& request, auto respond) {
    auto stopped = Stop(request.timeout_secs() > 0 ? int64_t{request.timeout_secs()} * 1000 : kStopMillis);
    if (!stopped) return respond(std::move(stopped.error()));
    respond(v1::StopSandboxResponse());
  });
  server->HandleTyped<v1::ShutdownSandboxRequest, v1::ShutdownSandboxResponse>(kService, "ShutdownSandbox", [this](const auto&, auto respond) {
    auto stopped = Stop(kStopMillis);
    if (!stopped) return respond(std::move(stopped.error()));
    respond(v1::ShutdownSandboxResponse());
    on_shutdown_();
  });
  server->HandleTyped<v1::WaitSandboxRequest, v1::WaitSandboxResponse>(kService, "WaitSandbox", [this](const auto&, auto respond) {
    auto answer = [this, respond] {
      v1::WaitSandboxResponse response;
      SetTime(exited_at_nanos_, response.mutable_exited_at());
      respond(std::move(response));
    };
    if (state_ == State::kStopped) return answer();
    waiters_.push_back(answer);
  });
  server->HandleTyped<v1::SandboxStatusRequest, v1::SandboxStatusResponse>(kService, "SandboxStatus", [this](const auto&, auto respond) {
    v1::SandboxStatusResponse response;
    response.set_sandbox_id(id_);
    response.set_pid(static_cast<uint32_t>(SandboxPid()));
    response.set_state(StateName());
    if (user_namespace_) (*response.mutable_info())["user_namespace"] = fmt::format("/proc/{}/fd/{}", getpid(), user_namespace_.get());
    SetTime(created_at_nanos_, response.mutable_created_at());
    if (exited_at_nanos_ != 0) SetTime(exited_at_nanos_, response.mutable_exited_at());
    respond(std::move(response));
  });
  server->HandleTyped<v1::PingRequest, v1::PingResponse>(kService, "PingSandbox", [](const auto&, auto respond) { respond(v1::PingResponse()); });
  server->HandleTyped<v1::PlatformRequest, v1::PlatformResponse>(kService, "Platform", [](const auto&, auto respond) {
    v1::PlatformResponse response;
    response.mutable_platform()->set_os("linux");
#if defined(__x86_64__)
    response.mutable_platform()->set_architecture("amd64");
#elif defined(__aarch64__)
    response.mutable_platform()->set_architecture("arm64");
    response.mutable_platform()->set_variant("v8");
#endif
    respond(std::move(response));
  });
  server->Handle(kService, "SandboxMetrics", [](std::string_view, ttrpc::Reply reply) {
    reply(MakeError(Code::kUnimplemented, "metrics of the sandbox itself are not kept; ask Task.Stats or caisson.pod.v1.Pod/Stats"));
  });
}

}  // namespace caisson::shim

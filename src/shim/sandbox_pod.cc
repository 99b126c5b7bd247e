// SPDX-License-Identifier: Apache-2.0
#include "shim/sandbox_pod.h"

#include <unistd.h>

#include <climits>

#include "base/clock.h"
#include "containerd/sandbox.pb.h"
#include "task/timestamp.h"

namespace caisson::shim {
namespace {

namespace v1 = containerd::runtime::sandbox::v1;

constexpr char kService[] = "containerd.runtime.sandbox.v1.Sandbox";

v1::PlatformResponse PlatformOfThis() {
  v1::PlatformResponse response;
  response.mutable_platform()->set_os("linux");
#if defined(__x86_64__)
  response.mutable_platform()->set_architecture("amd64");
#elif defined(__aarch64__)
  response.mutable_platform()->set_architecture("arm64");
  response.mutable_platform()->set_variant("v8");
#endif
  return response;
}

template <class Request, class Response, class Call>
void Add(ttrpc::Server* server, const char* method, Call call) {
  server->HandleTyped<Request, Response>(kService, method, [call](const Request& request, std::function<void(Result<Response>)> respond) {
    call(request, std::move(respond));
  });
}

Result<std::string> HostName() {
  char name[HOST_NAME_MAX + 1] = {};
  if (gethostname(name, sizeof name - 1) != 0) return ErrnoError("gethostname");
  return std::string(name);
}

}  // namespace

Result<> SandboxPod::CheckFresh() const {
  if (state_ == State::kFailed) return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' has failed to be created", id_);
  if (state_ != State::kNone) return MakeError(Code::kAlreadyExists, "pod sandbox '{}' exists already", id_);
  return {};
}

Result<pod::v1::SandboxOptions> SandboxPod::ReadOptions(const wkt::Any& any) {
  pod::v1::SandboxOptions options;
  if (any.type_url().ends_with(kSandboxOptionsType) && options.ParseFromString(any.value())) return options;
  return OptionsOf(TRY(ReadPodConfig(any)));
}

void SandboxPod::SetStopped() {
  state_ = State::kStopped;
  exited_at_nanos_ = NowNanos();
  for (auto& waiter : std::exchange(waiters_, {})) waiter();
}

Result<pod::v1::PodConfig> ReadPodConfig(const wkt::Any& any) {
  pod::v1::PodConfig config;
  if (any.type_url().ends_with(kPodConfigType) && config.ParseFromString(any.value())) return config;
  return MakeError(Code::kInvalidArgument, "its options are neither {} nor {}", kSandboxOptionsType, kPodConfigType);
}

Result<pod::v1::SandboxOptions> OptionsOf(const pod::v1::PodConfig& config) {
  pod::v1::SandboxOptions options;
  const auto& spaces = config.linux().security_context().namespace_options();
  if (spaces.has_userns_options() && spaces.userns_options().mode() == pod::v1::POD) {
    return MakeError(Code::kUnimplemented, "a user namespace of a pod's own is made for caissond alone");
  }
  options.set_host_network(spaces.network() == pod::v1::NODE);
  options.set_host_ipc(spaces.ipc() == pod::v1::NODE);
  // The client takes all namespaces of a container that says nothing else from the process that StartSandbox names, its PID namespace
  // too, whatever the pod says of it: that must not be the host's.
  options.set_share_pid(spaces.pid() != pod::v1::NODE);
  // On the host's network its name is the host's, too; else the name at least is the pod's own, in a namespace of its own.
  if (!options.host_network()) options.set_hostname(config.hostname().empty() ? TRY(HostName()) : config.hostname());
  options.set_cgroup_parent(config.linux().cgroup_parent());
  for (const auto& [name, value] : config.linux().sysctls()) (*options.mutable_sysctls())[name] = value;
  return options;
}

void RegisterSandboxService(ttrpc::Server* server, SandboxPod* pod, std::function<void()> on_shutdown) {
  Add<v1::CreateSandboxRequest, v1::CreateSandboxResponse>(server, "CreateSandbox", [pod](const auto& request, auto respond) {
    auto options = pod->ReadOptions(request.options());
    if (!options) return respond(std::move(options.error()).Within(fmt::format("pod sandbox '{}'", pod->id())));
    pod->Create(request.bundle_path(), request.netns_path(), *options, [respond](Result<> created) {
      if (!created) return respond(std::move(created.error()));
      respond(v1::CreateSandboxResponse());
    });
  });
  Add<v1::StartSandboxRequest, v1::StartSandboxResponse>(server, "StartSandbox", [pod](const auto&, auto respond) {
    pod->Start([pod, respond](Result<> started) {
      if (!started) return respond(std::move(started.error()));
      v1::StartSandboxResponse response;
      response.set_pid(static_cast<uint32_t>(pod->ToldPid()));
      task::SetTime(pod->created_at_nanos_, response.mutable_created_at());
      respond(std::move(response));
    });
  });
  Add<v1::StopSandboxRequest, v1::StopSandboxResponse>(server, "StopSandbox", [pod](const auto& request, auto respond) {
    auto stopped = pod->Stop(request.timeout_secs() > 0 ? int64_t{request.timeout_secs()} * 1000 : kStopMillis);
    if (!stopped) return respond(std::move(stopped.error()));
    respond(v1::StopSandboxResponse());
  });
  Add<v1::ShutdownSandboxRequest, v1::ShutdownSandboxResponse>(server, "ShutdownSandbox", [pod, on_shutdown](const auto&, auto respond) {
    auto stopped = pod->Stop(kStopMillis);
    if (!stopped) return respond(std::move(stopped.error()));
    respond(v1::ShutdownSandboxResponse());
    on_shutdown();
  });
  Add<v1::WaitSandboxRequest, v1::WaitSandboxResponse>(server, "WaitSandbox", [pod](const auto&, auto respond) {
    auto answer = [pod, respond] {
      v1::WaitSandboxResponse response;
      task::SetTime(pod->exited_at_nanos_, response.mutable_exited_at());
      respond(std::move(response));
    };
    if (pod->stopped()) return answer();
    pod->waiters_.push_back(answer);
  });
  Add<v1::SandboxStatusRequest, v1::SandboxStatusResponse>(server, "SandboxStatus", [pod](const auto&, auto respond) {
    v1::SandboxStatusResponse response;
    response.set_sandbox_id(pod->id());
    response.set_pid(static_cast<uint32_t>(pod->ToldPid()));
    // containerd's words (its sandbox controller compares them).
    response.set_state(pod->state_ == SandboxPod::State::kReady ? "SANDBOX_READY" : "SANDBOX_NOTREADY");
    for (auto& [key, value] : pod->Info()) (*response.mutable_info())[key] = std::move(value);
    task::SetTime(pod->created_at_nanos_, response.mutable_created_at());
    if (pod->exited_at_nanos_ != 0) task::SetTime(pod->exited_at_nanos_, response.mutable_exited_at());
    respond(std::move(response));
  });
  Add<v1::PingRequest, v1::PingResponse>(server, "PingSandbox", [](const auto&, auto respond) { respond(v1::PingResponse()); });
  Add<v1::PlatformRequest, v1::PlatformResponse>(server, "Platform", [](const auto&, auto respond) { respond(PlatformOfThis()); });
  server->Handle(kService, "SandboxMetrics", [](std::string_view, ttrpc::Reply reply) {
    reply(MakeError(Code::kUnimplemented, "metrics of the sandbox itself are not kept; ask Task.Stats or caisson.pod.v1.Pod/Stats"));
  });
}

}  // namespace caisson::shim

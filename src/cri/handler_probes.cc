// SPDX-License-Identifier: Apache-2.0
#include "cri/handler_probes.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "base/id.h"
#include "base/json.h"
#include "base/log.h"
#include "containerd/sandbox.pb.h"
#include "containerd/task_v3.pb.h"
#include "cri/foreign_runtime.h"
#include "cri/pod_teardown.h"
#include "net/netns.h"
#include "sys/new_file.h"

namespace caisson::cri {
namespace {

namespace sandbox = containerd::runtime::sandbox::v1;
namespace task = containerd::task::v3;

constexpr int64_t kCallMillis = 30'000;  // each request to the companion
constexpr int64_t kFirstAgainMillis = 10'000, kLastAgainMillis = 600'000;
constexpr uint32_t kStatus = 42;

// One probe's pod. What it has made goes when it goes.
class ProbePod {
 public:
  ProbePod(Context& context, const std::string& handler) : context_(context), handler_(handler) {
    record_.set_id(NewId());
    record_.set_resolved_handler(handler);
    folder_ = context.config.PodDir(record_.id());
    bundle_ = folder_ + "/" + container_;
    netns_ = context.config.NetnsPath(record_.id());
  }
  ~ProbePod() {
    if (auto ended = EndCompanion(context_, record_, shim_); !ended) log::Error("probe of handler '{}': {}", handler_, ended.error().message);
    if (auto removed = net::RemoveNetns(netns_); !removed) log::Error("probe of handler '{}': {}", handler_, removed.error().message);
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  ProbePod(const ProbePod&) = delete;
  ProbePod& operator=(const ProbePod&) = delete;

  Result<> Run() {
    TRY(StartPod());
    TRY(WriteBundle());
    task::CreateTaskRequest create;
    create.set_id(container_);
    create.set_bundle(bundle_);
    create.mutable_options()->set_type_url("caisson.pod.v1.CreateOptions");
    TRY(Call<task::CreateTaskResponse>("Create", create));
    task::StartRequest start;
    start.set_id(container_);
    TRY(Call<task::StartResponse>("Start", start));
    task::WaitRequest wait;
    wait.set_id(container_);
    auto ended = TRY(Call<task::WaitResponse>("Wait", wait));
    task::DeleteRequest remove;
    remove.set_id(container_);
    TRY(Call<task::DeleteResponse>("Delete", remove));
    if (ended.exit_status() == kStatus) return {};
    return MakeError(Code::kInternal, "its container ended with status {} instead of {}", ended.exit_status(), kStatus);
  }

 private:
  template <class Response, class Request>
  Result<Response> Call(std::string_view method, const Request& request) {
    return shim_->Call<Response>(service::kTask, method, request, kCallMillis);
  }

  Result<> StartPod() {
    std::error_code failed;
    std::filesystem::create_directory(folder_, failed);
    if (!failed) std::filesystem::permissions(folder_, std::filesystem::perms::owner_all, failed);
    if (failed) return SysError(failed.value(), fmt::format("make directory '{}'", folder_));
    TRY(net::CreateNetns(netns_));
    Shims::SpawnOptions spawn;
    spawn.pod_id = record_.id();
    spawn.program = TRY(FindCompanion(context_.config, handler_));
    spawn.pod_dir = folder_;
    spawn.arguments = CompanionArguments(context_, handler_);
    companion_ = spawn.program;
    shim_ = TRY(context_.shims.Spawn(spawn));
    sandbox::CreateSandboxRequest create;
    create.set_sandbox_id(record_.id());
    create.set_bundle_path(folder_);
    create.set_netns_path(netns_);
    pod::v1::SandboxOptions options;
    options.set_hostname("probe");
    options.set_systemd_cgroup(context_.systemd_cgroup);
    *options.mutable_runtime() = TRY(ForeignRuntimeOf(handler_, context_.config.handlers.at(handler_)));
    create.mutable_options()->set_type_url("caisson.pod.v1.SandboxOptions");
    create.mutable_options()->set_value(options.SerializeAsString());
    TRY(shim_->Call<sandbox::CreateSandboxResponse>(service::kSandbox, "CreateSandbox", create, kCallMillis));
    sandbox::StartSandboxRequest start;
    start.set_sandbox_id(record_.id());
    TRY(shim_->Call<sandbox::StartSandboxResponse>(service::kSandbox, "StartSandbox", start, kCallMillis));
    return {};
  }

  // The companion's program, which needs nothing beside it, in an empty root.
  Result<> WriteBundle() const {
    std::error_code failed;
    // crun makes devices, whatever the configuration has of them.
    for (const char* name : {"proc", "dev"}) {
      if (!failed) std::filesystem::create_directories(fmt::format("{}/rootfs/{}", bundle_, name), failed);
    }
    if (failed) return SysError(failed.value(), fmt::format("make directory '{}'", bundle_));
    TRY(sys::WriteNewFile(bundle_ + "/rootfs/probe", ""));
    auto space = [](const char* type, const std::string& path) { return Json{{"type", type}, {"path", path}}; };
    const std::string of_pod = fmt::format("/proc/{}/ns/", shim_->pid());
    Json config = {
        {"ociVersion", "1.0.2"},
        {"process", {{"args", {"/probe", "exit", fmt::format("{}", kStatus)}}, {"cwd", "/"}, {"env", {"PATH=/"}}, {"user", {{"uid", 0}, {"gid", 0}}}, {"noNewPrivileges", true}}},
        {"root", {{"path", "rootfs"}, {"readonly", true}}},
        {"annotations", {{"io.kubernetes.cri.container-type", "container"}, {"io.kubernetes.cri.sandbox-id", record_.id()}}},
        {"mounts", {{{"destination", "/proc"}, {"type", "proc"}, {"source", "proc"}},
                    {{"destination", "/dev"}, {"type", "tmpfs"}, {"source", "tmpfs"}, {"options", {"nosuid", "mode=755", "size=64k"}}},
                    {{"destination", "/probe"}, {"type", "bind"}, {"source", companion_}, {"options", {"bind", "ro"}}}}},
        {"linux", {{"cgroupsPath", context_.systemd_cgroup ? "system.slice:caisson:" + container_ : "/caisson/" + container_},
                   {"namespaces", {{{"type", "pid"}}, {{"type", "mount"}}, space("ipc", of_pod + "ipc"), space("uts", of_pod + "uts"), space("network", of_pod + "net")}}}}};
    return sys::WriteNewFile(bundle_ + "/config.json", DumpJson(config));
  }

  Context& context_;
  const std::string& handler_;
  const std::string container_ = NewId();
  PodRecord record_;
  std::string folder_, bundle_, netns_, companion_;
  std::shared_ptr<ShimClient> shim_;
};

}  // namespace

void HandlerProbes::Start() {
  std::lock_guard lock(mutex_);
  for (const auto& [name, handler] : context_.config.handlers) {
    if (!handler.IsForeign()) continue;
    states_[name];
    threads_.emplace_back([this, handler_name = name] { Run(handler_name); });
  }
}

void HandlerProbes::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

Result<> HandlerProbes::Check(const std::string& handler) const {
  std::lock_guard lock(mutex_);
  auto found = states_.find(handler);
  if (found == states_.end()) return MakeError(Code::kUnavailable, "handler '{}' is not ready: it has not been probed", handler);
  if (found->second.ready) return {};
  return MakeError(Code::kUnavailable, "handler '{}' is not ready: {}", handler, found->second.reason);
}

std::vector<Reading> HandlerProbes::Read() const {
  std::lock_guard lock(mutex_);
  std::vector<Reading> readings;
  for (const auto& [name, state] : states_) {
    readings.push_back({"handler_ready", "Whether a probe pod has run with the handler's runtime", {{"handler", name}, {"reason", state.ready ? "" : state.reason}},
                        state.ready ? 1.0 : 0.0});
  }
  return readings;
}

void HandlerProbes::Run(const std::string& handler) {
  std::unique_lock lock(mutex_);
  for (int64_t again = kFirstAgainMillis; !stopping_; again = std::min(again * 2, kLastAgainMillis)) {
    lock.unlock();
    Result<> probed = Probe(handler);
    lock.lock();
    State& state = states_[handler];
    state.ready = probed.has_value();
    if (probed) return log::Info("handler '{}': its probe pod has run", handler);
    if (state.reason != probed.error().message) log::Warn("handler '{}' is not ready: {}", handler, probed.error().message);
    state.reason = probed.error().message;
    changed_.wait_for(lock, std::chrono::milliseconds(again), [this] { return stopping_; });
  }
}

Result<> HandlerProbes::Probe(const std::string& handler) {
  TRY(ForeignRuntimeOf(handler, context_.config.handlers.at(handler)));
  ProbePod pod(context_, handler);
  return pod.Run();
}

}  // namespace caisson::cri

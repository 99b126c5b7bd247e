// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_teardown.h"

#include <unistd.h>

#include <climits>
#include <filesystem>
#include <thread>

#include "base/log.h"
#include "base/strings.h"
#include "containerd/sandbox.pb.h"
#include "containerd/task_v3.pb.h"
#include "cri/exits.h"
#include "cri/image_volume.h"
#include "cri/pod_network.h"
#include "image/remove_tree.h"
#include "sys/own_program.h"

namespace caisson::cri {
namespace {

namespace sandbox = containerd::runtime::sandbox::v1;
namespace task = containerd::task::v3;
namespace v1 = runtime::v1;

constexpr int64_t kStopMillis = 10'000;      // StopSandbox and ShutdownSandbox, each
constexpr int64_t kGoneMillis = 5'000;       // from Shutdown's answer, or SIGKILL, to the process's end
constexpr int64_t kCleanupMillis = 30'000;
constexpr int64_t kContainersMillis = 10'000;
constexpr int64_t kGuestMillis = 2'000;  // the same in a VM, whose own end is theirs too
constexpr uint32_t kSigkill = 9;  // <signal.h> does not go together with the CRI's enum of signals

bool NothingLeft(const PodRecord& record) {
  return record.state() == v1::SANDBOX_NOTREADY && record.shim_pid() == 0 && record.netns_path().empty() &&
         !record.network().attached();
}

// SIGKILL for all containers at once, then one deadline for all of them.
void KillContainers(const std::vector<ContainerPtr>& containers, const std::shared_ptr<ShimClient>& shim, int64_t millis) {
  Deadline deadline = Deadline::After(millis);
  for (const ContainerPtr& container : containers) {
    if (container->Get()->state() == v1::CONTAINER_EXITED) continue;
    task::KillRequest request;
    request.set_id(container->id());
    request.set_signal(kSigkill);
    request.set_all(true);
    shim->ttrpc().Call(service::kTask, "Kill", request.SerializeAsString(), millis, [](Result<std::string>) {});
  }
  for (const ContainerPtr& container : containers) {
    // What does not end now ends with its companion; PodDied or StopPod records that.
    if (!container->WaitExited(deadline)) log::Warn("container {} did not end on SIGKILL in time", container->id());
  }
  }

}  // namespace

Result<std::string> FindCompanion(const Config& config, const std::string& handler) {
  constexpr std::string_view kName = "containerd-shim-caisson-v2";
  auto at = config.handlers.find(handler);
  std::string chosen = at != config.handlers.end() && !at->second.shim_path.empty() ? at->second.shim_path
                                                                                    : config.shim_path;
  if (!chosen.empty()) {
    if (access(chosen.c_str(), X_OK) != 0) return ErrnoError("the companion '{}' of handler '{}'", chosen, handler);
    return chosen;
  }
  if (auto self = sys::OwnProgram()) {
    std::string beside = fmt::format("{}/{}", self->substr(0, self->rfind('/')), kName);
    if (access(beside.c_str(), X_OK) == 0) return beside;
  }
  const char* path = getenv("PATH");
  for (std::string_view dir : Split(path ? path : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", ':')) {
    if (!dir.starts_with('/')) continue;
    std::string candidate = fmt::format("{}/{}", dir, kName);
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return MakeError(Code::kFailedPrecondition, "the companion '{}' is neither beside caissond nor in PATH; set shim_path",
                   kName);
}

std::vector<std::string> CompanionArguments(const Context& context, const std::string& handler) {
  std::vector<std::string> arguments = {"--seccomp-cache", context.config.SeccompCacheDir()};
  auto found = context.config.handlers.find(handler);
  if (found != context.config.handlers.end() && !found->second.runtime_type.empty()) arguments.insert(arguments.end(), {"--sandbox", "shim"});
  return arguments;
}

Result<> RunCleanup(Context& context, const PodRecord& record) {
  std::string program = TRY(FindCompanion(context.config, record.resolved_handler()));
  std::string pod_dir = context.config.PodDir(record.id());
  std::error_code ignored;
  std::filesystem::create_directories(pod_dir, ignored);
  return RunCompanionCommand(program, {"cleanup", "--id", record.id(), "--bundle", pod_dir}, pod_dir + "/cleanup.log", kCleanupMillis);
}

Result<> EndCompanion(Context& context, const PodRecord& record, const std::shared_ptr<ShimClient>& shim) {
  if (!shim) return {};
  auto shutdown = [&]() -> Result<> {
    sandbox::StopSandboxRequest stop;
    stop.set_sandbox_id(record.id());
    stop.set_timeout_secs(kStopMillis / 1000);
    TRY(shim->Call<sandbox::StopSandboxResponse>(service::kSandbox, "StopSandbox", stop, kStopMillis));
    sandbox::ShutdownSandboxRequest request;
    request.set_sandbox_id(record.id());
    TRY(shim->Call<sandbox::ShutdownSandboxResponse>(service::kSandbox, "ShutdownSandbox", request, kStopMillis));
    if (!shim->WaitGone(kGoneMillis)) return MakeError(Code::kDeadlineExceeded, "it did not end after ShutdownSandbox");
    return {};
  };
  Result<> asked = shim->gone() ? Result<>(MakeError(Code::kUnavailable, "it has died")) : shutdown();
  if (asked) return {};
  log::Warn("the companion of pod {} is ended by force: {}", record.id(), asked.error().message);
  shim->Kill();
  if (!shim->WaitGone(kGoneMillis)) {
    return MakeError(Code::kDeadlineExceeded, "the companion (pid {}) of pod sandbox '{}' does not die", shim->pid(),
                     record.id());
  }
  return RunCleanup(context, record);
}

Result<> CleanUpAfterCompanion(Context& context, const PodPtr& pod) {
  if (pod->Get()->shim_pid() == 0) return {};
  TRY(RunCleanup(context, *pod->Get()));
  pod->set_shim(nullptr);
  return context.pods.Observe(pod, [](PodRecord& record) {
    record.set_shim_pid(0);
    record.set_sandbox_pid(0);
  });
}

Result<> StopPod(Context& context, const PodPtr& pod) {
  if (NothingLeft(*pod->Get())) return {};
  auto record = pod->Get();
  std::shared_ptr<ShimClient> shim = pod->shim();
  auto containers = ContainersOf(context, pod->id());
  // Seen as not ready from now on, so that nothing new starts in it.
  // A full disk must not keep a pod from being stopped; what could not be written is said at the end.
  (void)context.pods.Observe(pod, [](PodRecord& changed) {
    if (changed.state() == v1::SANDBOX_NOTREADY) return;
    changed.set_state(v1::SANDBOX_NOTREADY);
    changed.set_stopped_at_nanos(NowNanos());
  });
  Steps steps(context, "stop_pod_sandbox");
  if (shim && !shim->gone()) {
    const int64_t millis = record->has_vm() ? kGuestMillis : kContainersMillis;
    (void)steps.Run("kill_containers", [&]() -> Result<> { return KillContainers(containers, shim, millis), Result<>(); });
  }
  // CNI DEL takes long and needs nothing of the companion.
  Result<> network;
  std::thread release;
  auto release_network = [&] {
    network = steps.Run("network_release", [&] { return ReleaseNetwork(context, *record); });
  };
  if (record->network().attached() && record->shim_pid() != 0) {
    release = std::thread(release_network);
  } else {
    release_network();
  }
  Result<> companion = steps.Run("companion_end", [&]() -> Result<> {
    if (shim) return EndCompanion(context, *record, shim);
    return record->shim_pid() != 0 ? RunCleanup(context, *record) : Result<>();
  });
  if (release.joinable()) release.join();
  if (companion) {
    // Listed anew: one may have been created meanwhile.
    for (const ContainerPtr& container : ContainersOf(context, pod->id())) {
      RecordExit(context, container,
                 {.exit_code = kUnknownExitCode, .reason = "Error", .message = "ended with its pod sandbox"});
    }
    pod->set_shim(nullptr);
  }
  Result<> written = context.pods.Observe(pod, [&](PodRecord& changed) {
    steps.AppendTo(changed.mutable_timeline());
    if (companion) changed.set_shim_pid(0), changed.set_sandbox_pid(0);
    if (network) changed.mutable_network()->set_attached(false), changed.clear_netns_path();
  });
  TRY(std::move(companion));
  TRY(std::move(network));
  return written;
}

Result<> KillContainer(Context& context, const ContainerPtr& container, int64_t deadline_millis) {
  auto record = container->Get();
  if (record->state() == v1::CONTAINER_EXITED) return {};
  auto pod = context.pods.Find(record->pod_id());
  std::shared_ptr<ShimClient> shim = pod ? (*pod)->shim() : nullptr;
  if (shim && !shim->gone()) {
    task::KillRequest request;
    request.set_id(container->id());
    request.set_signal(kSigkill);
    request.set_all(true);
    auto killed = shim->Call<wkt::Empty>(service::kTask, "Kill", request, deadline_millis);
    // Ended already is what is wanted; its Wait tells.
    if (!killed && killed.error().code != Code::kNotFound && killed.error().code != Code::kFailedPrecondition) {
      return std::move(killed.error()).Within(fmt::format("kill container '{}'", container->id()));
    }
  }
  // Without a companion nothing of it runs and nobody will tell its end.
  if (!shim) {
    RecordExit(context, container,
               {.exit_code = kUnknownExitCode, .reason = "Unknown", .message = "its pod has no companion process"});
  }
  if (container->WaitExited(Deadline::After(deadline_millis))) return {};
  return MakeError(Code::kDeadlineExceeded, "container '{}' did not end within {} ms of SIGKILL", container->id(),
                   deadline_millis);
}

Result<> EndTask(ShimClient& shim, const std::string& container_id) {
  task::KillRequest kill;
  kill.set_id(container_id);
  kill.set_signal(kSigkill);
  kill.set_all(true);
  auto killed = shim.Call<wkt::Empty>(service::kTask, "Kill", kill, kContainersMillis);
  if (!killed && killed.error().code == Code::kNotFound) return {};
  task::WaitRequest wait;
  wait.set_id(container_id);
  (void)shim.Call<task::WaitResponse>(service::kTask, "Wait", wait, kContainersMillis);
  task::DeleteRequest remove;
  remove.set_id(container_id);
  auto removed = shim.Call<task::DeleteResponse>(service::kTask, "Delete", remove, kContainersMillis);
  if (removed || removed.error().code == Code::kNotFound) return {};
  // A companion that is just ending has closed its connection a moment before it is gone, and its tasks with it.
  bool ending = removed.error().code == Code::kUnavailable && shim.WaitGone(kGoneMillis);
  if (!ending && !shim.gone()) {
    return std::move(removed.error()).Within(fmt::format("end container '{}'", container_id));
  }
  return {};
}

Result<> RemoveContainerFiles(Context& context, const ContainerRecord& record) {
  TRY(RemoveImageVolumes(context.images, record));
  if (!record.checkpoint().empty()) TRY(image::RemoveTree(context.config.CheckpointDir(record.id())));
  if (!record.snapshot_key().empty()) TRY(context.images.RemoveSnapshot(record.snapshot_key()));
  std::error_code error;
  // Does not follow symbolic links.
  std::filesystem::remove_all(context.config.ContainerDir(record.id()), error);
  if (error) {
    return SysError(error.value(), fmt::format("remove '{}'", context.config.ContainerDir(record.id())));
  }
  return {};
}

Result<> DiscardContainer(Context& context, const ContainerPtr& container) {
  std::lock_guard lock(container->operation);
  TRY(KillContainer(context, container, kContainersMillis));
  auto record = container->Get();
  auto pod = context.pods.Find(record->pod_id());
  std::shared_ptr<ShimClient> shim = pod ? (*pod)->shim() : nullptr;
  if (shim && !shim->gone()) {
    task::DeleteRequest request;
    request.set_id(container->id());
    auto deleted = shim->Call<task::DeleteResponse>(service::kTask, "Delete", request);
    // Something of it runs although the record says that it has ended: a failed start that could not be undone.
    if (!deleted && deleted.error().code != Code::kNotFound) TRY(EndTask(*shim, container->id()));
  }
  TRY(RemoveContainerFiles(context, *record));
  return context.containers.Remove(container->id());
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "cri/exits.h"

#include "base/log.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/task_v3.pb.h"
#include "cri/pod_teardown.h"
#include "sys/path.h"

namespace caisson::cri {
namespace {

namespace task = containerd::task::v3;
namespace v1 = runtime::v1;

constexpr int64_t kInfoMillis = 10'000;
constexpr char kVmEndFile[] = "/vm-end";  // the companion's (shim/vm_end.h): a word, a line end, a sentence
constexpr size_t kVmEndBytes = 8 << 10;

int64_t Nanos(const wkt::Timestamp& at) { return at.seconds() * kNanosPerSecond + at.nanos(); }

// Frees what the companion and the kernel keep of an ended container. Nobody waits for it: RemoveContainer asks again.
void DeleteTask(const std::string& id, ShimClient& shim) {
  task::DeleteRequest request;
  request.set_id(id);
  shim.ttrpc().Call(service::kTask, "Delete", request.SerializeAsString(), kInfoMillis, [](Result<std::string>) {});
}

void OnWaited(Context& context, const ContainerPtr& container, const std::shared_ptr<ShimClient>& shim,
              const std::string& payload) {
  task::WaitResponse waited;
  if (!waited.ParseFromString(payload)) return;
  Exit exit;
  exit.exit_code = static_cast<int>(waited.exit_status());
  exit.finished_at_nanos = Nanos(waited.exited_at());
  pod::v1::ContainerInfoRequest request;
  request.set_container_id(container->id());
  // Wait cannot say why; only then is the end complete.
  shim->ttrpc().Call(service::kPod, "ContainerInfo", request.SerializeAsString(), kInfoMillis,
                     [&context, container, shim, exit](Result<std::string> reply) mutable {
                       pod::v1::ContainerInfoResponse info;
                       if (reply && info.ParseFromString(*reply)) {
                         exit.oom_killed = info.oom_killed();
                         exit.started_at_nanos = info.started_at_nanos();
                         exit.reason = info.end_reason();
                         exit.message = info.end_message();
                       }
                       context.background.Post([&context, container, shim, exit] {
                         RecordExit(context, container, exit);
                         DeleteTask(container->id(), *shim);
                       });
                     });
}

}  // namespace

void WatchExit(Context& context, const ContainerPtr& container, const std::shared_ptr<ShimClient>& shim) {
  task::WaitRequest request;
  request.set_id(container->id());
  shim->ttrpc().Call(service::kTask, "Wait", request.SerializeAsString(), ttrpc::Client::kNoTimeout,
                     [&context, container, shim](Result<std::string> reply) {
                       if (reply) return OnWaited(context, container, shim, *reply);
                       // The connection's end is dealt with by Shims::OnEnd; a container the companion does not know
                       // has ended in a way it can no longer tell.
                       if (reply.error().code != Code::kNotFound) return;
                       context.background.Post([&context, container] {
                         RecordExit(context, container,
                                    {.exit_code = kUnknownExitCode,
                                     .reason = "Unknown",
                                     .message = "the pod's companion no longer knows the container"});
                       });
                     });
}

void RecordExit(Context& context, const ContainerPtr& container, const Exit& exit) {
  if (container->Get()->state() == v1::CONTAINER_EXITED) return;
  int64_t finished = exit.finished_at_nanos ? exit.finished_at_nanos : NowNanos();
  auto updated = context.containers.Observe(container, [&](ContainerRecord& record) {
    if (record.state() == v1::CONTAINER_EXITED) return;
    record.set_state(v1::CONTAINER_EXITED);
    record.set_exit_code(exit.exit_code);
    if (exit.started_at_nanos) record.set_started_at_nanos(exit.started_at_nanos);
    record.set_finished_at_nanos(std::max(finished, record.started_at_nanos()));
    record.set_pid(0);
    record.set_reason(!exit.reason.empty() ? exit.reason
                      : exit.oom_killed    ? "OOMKilled"
                      : exit.exit_code == 0 ? "Completed"
                                            : "Error");
    record.set_message(exit.message);
  });
  if (!updated && updated.error().code != Code::kNotFound) {
    log::Error("record the end of container {}: {}", container->id(), updated.error().message);
  }
  container->NotifyChanged();
}

std::optional<VmEnd> VmEndOf(const Context& context, const std::string& pod_id) {
  auto text = sys::ReadFile(context.config.PodDir(pod_id) + kVmEndFile, kVmEndBytes);
  if (!text) return std::nullopt;
  size_t line = text->find('\n');
  if (line == 0 || line == std::string::npos) return std::nullopt;
  return VmEnd{text->substr(0, line), text->substr(line + 1)};
}

std::vector<ContainerPtr> ContainersOf(const Context& context, const std::string& pod_id) {
  std::vector<ContainerPtr> found;
  for (ContainerPtr& container : context.containers.List()) {
    if (container->Get()->pod_id() == pod_id) found.push_back(std::move(container));
  }
  return found;
}

void PodDied(Context& context, const std::string& pod_id) {
  auto pod = context.pods.Find(pod_id);
  if (!pod) return;  // still being created: RunPodSandbox undoes it
  bool unexpected = (*pod)->Get()->state() == v1::SANDBOX_READY;
  const VmEnd end = VmEndOf(context, pod_id).value_or(VmEnd{"CompanionDied", "the pod's companion process died"});
  for (const ContainerPtr& container : ContainersOf(context, pod_id)) {
    RecordExit(context, container, {.exit_code = kUnknownExitCode, .reason = end.reason, .message = end.message + ", and the container with it"});
  }
  if (!unexpected) return;
  log::Warn("pod {} has ended: {}", pod_id, end.message);
  (void)context.pods.Observe(*pod, [&end](PodRecord& record) {
    if (record.state() == v1::SANDBOX_NOTREADY) return;
    record.set_state(v1::SANDBOX_NOTREADY);
    record.set_stopped_at_nanos(NowNanos());
    record.set_reason(end.message);
  });
  context.background.Start([&context, pod = *pod] {
    std::lock_guard lock(pod->operation);
    if (auto done = CleanUpAfterCompanion(context, pod); !done) {
      log::Error("clean up after the companion of pod {}: {}", pod->id(), done.error().message);
    }
  });
}

}  // namespace caisson::cri

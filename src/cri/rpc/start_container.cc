// SPDX-License-Identifier: Apache-2.0
#include "base/limits.h"
#include "base/log.h"
#include "containerd/task_v3.pb.h"
#include "cri/pod_teardown.h"
#include "cri/rpc/rpc.h"
#include "cri/steps.h"
#include "image/remove_tree.h"

namespace caisson::cri {
namespace {

namespace task = containerd::task::v3;

// What a shell answers for a program it cannot start, and containerd for a failed start.
constexpr int kStartErrorExitCode = 128;
constexpr int64_t kRestoreAnswerMillis = 30'000;  // beyond criu's own deadline

const char* StateWord(v1::ContainerState state) {
  switch (state) {
    case v1::CONTAINER_CREATED: return "created";
    case v1::CONTAINER_RUNNING: return "running";
    case v1::CONTAINER_EXITED: return "exited";
    default: return "unknown";
  }
}

// The container has ended without ever running; CRI shows that as EXITED with the reason StartError.
void RecordStartError(Context& context, const ContainerPtr& container, const Error& error, const Steps& steps) {
  (void)context.containers.Observe(container, [&](ContainerRecord& record) {
    record.set_state(v1::CONTAINER_EXITED);
    record.set_exit_code(kStartErrorExitCode);
    record.set_finished_at_nanos(NowNanos());
    record.set_pid(0);
    record.set_reason("StartError");
    record.set_message(error.message);
    steps.AppendTo(record.mutable_timeline());
  });
  container->NotifyChanged();
}

}  // namespace

Result<v1::StartContainerResponse> StartContainer(Context& context, const v1::StartContainerRequest& request) {
  ContainerPtr container = TRY(context.containers.Find(request.container_id()));
  std::lock_guard lock(container->operation);
  auto before = container->Get();
  if (before->state() != v1::CONTAINER_CREATED) {
    return MakeError(Code::kFailedPrecondition, "container '{}' is {}, not created", container->id(),
                     StateWord(before->state()));
  }
  PodPtr pod = TRY(context.pods.Find(before->pod_id()));
  std::shared_ptr<ShimClient> shim = pod->shim();
  if (pod->Get()->state() != v1::SANDBOX_READY || !shim) {
    return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not ready", pod->id());
  }
  Steps steps(context, "start_container");
  uint32_t pid = 0;
  int64_t started_at = 0;
  auto started = steps.Run("task_start", [&]() -> Result<> {
    task::StartRequest start;
    start.set_id(container->id());
    // One that is restored starts as long as its memory takes to be read; the companion bounds it.
    int64_t millis = before->checkpoint().empty() ? 0 : limits::kCheckpointMillis + kRestoreAnswerMillis;
    pid = TRY(shim->Call<task::StartResponse>(service::kTask, "Start", start, millis)).pid();
    started_at = NowNanos();
    return {};
  });
  if (started) {
    started = steps.Run("record", [&] {
      return context.containers.Update(container, [&](ContainerRecord& record) {
        steps.AppendTo(record.mutable_timeline());
        // A short-lived program's end may have been recorded already, with the companion's exact times.
        if (record.started_at_nanos() == 0) record.set_started_at_nanos(started_at);
        if (record.state() != v1::CONTAINER_CREATED) return;
        record.set_state(v1::CONTAINER_RUNNING);
        record.set_pid(pid);
      });
    });
  }
  if (!started) {
    // Whether it runs (its answer came too late, the record could not be written) or not: a container that runs without
    // the index saying so could not be stopped by anybody. Recorded first: the exit that the kill makes is not its end.
    RecordStartError(context, container, started.error(), steps);
    if (auto ended = EndTask(*shim, container->id()); !ended) log::Error("{}", ended.error().message);
    return std::move(started.error()).Within(fmt::format("start container '{}'", container->id()));
  }
  if (!before->checkpoint().empty()) {
    // The images have done their service; a failure is mended when the container is removed.
    (void)image::RemoveTree(context.config.CheckpointDir(container->id()));
  }
  context.sampler.Outdate();
  container->NotifyChanged();
  return v1::StartContainerResponse();
}

}  // namespace caisson::cri

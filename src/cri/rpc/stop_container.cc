// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "base/log.h"
#include "containerd/task_v3.pb.h"
#include "cri/pod_teardown.h"
#include "cri/rpc/rpc.h"
#include "cri/signal_name.h"

namespace caisson::cri {
namespace {

constexpr int64_t kKillMillis = 10'000;  // from SIGKILL to the recorded end

// Sends the stop signal once, whoever asks: a second StopContainer must not interrupt the first's grace period with
// another signal, only shorten it.
Result<> SendStopSignal(Context& context, const ContainerPtr& container, const ContainerRecord& record) {
  if (container->stop_signal_sent.exchange(true)) return {};
  auto pod = context.pods.Find(record.pod_id());
  std::shared_ptr<ShimClient> shim = pod ? (*pod)->shim() : nullptr;
  if (!shim) return {};
  containerd::task::v3::KillRequest request;
  request.set_id(record.id());
  request.set_signal(static_cast<uint32_t>(SignalNumber(record.stop_signal()).value_or(15)));
  auto sent = shim->Call<wkt::Empty>(service::kTask, "Kill", request, kKillMillis);
  if (sent || sent.error().code == Code::kNotFound || sent.error().code == Code::kFailedPrecondition) return {};
  container->stop_signal_sent = false;
  return std::move(sent.error());
}

}  // namespace

Result<v1::StopContainerResponse> StopContainer(Context& context, const v1::StopContainerRequest& request) {
  auto found = context.containers.Find(request.container_id());
  if (!found) {
    if (found.error().code == Code::kNotFound) return v1::StopContainerResponse();
    return std::move(found.error());
  }
  const ContainerPtr& container = *found;
  auto record = container->Get();
  if (record->state() != v1::CONTAINER_RUNNING) return v1::StopContainerResponse();
  // Not under container->operation: a caller with a shorter timeout must not wait behind one with a longer.
  int64_t timeout = std::clamp<int64_t>(request.timeout(), 0, std::numeric_limits<int32_t>::max() / 1000);
  if (timeout > 0) {
    Deadline grace = Deadline::After(timeout * 1000);
    if (auto sent = SendStopSignal(context, container, *record); !sent) {
      log::Warn("stop signal to container {}: {}; it is killed", container->id(), sent.error().message);
    } else if (container->WaitExited(grace)) {
      return v1::StopContainerResponse();
    }
  }
  TRY(KillContainer(context, container, kKillMillis));
  return v1::StopContainerResponse();
}

}  // namespace caisson::cri

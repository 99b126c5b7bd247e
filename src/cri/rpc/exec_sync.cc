// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "base/limits.h"
#include "caisson/pod/v1/pod.pb.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {
namespace {

// The companion ends the process at the timeout; its answer then still has to travel.
constexpr int64_t kGraceMillis = 10'000;
// Both streams come in one ttRPC frame.
constexpr uint64_t kStreamBytes = std::min<uint64_t>(limits::kExecSyncBytes, (limits::kTtrpcMessageBytes - 4096) / 2);

}  // namespace

Result<v1::ExecSyncResponse> ExecSync(Context& context, const v1::ExecSyncRequest& request) {
  ContainerPtr container = TRY(context.containers.Find(request.container_id()));
  if (request.cmd().empty()) return MakeError(Code::kInvalidArgument, "the command to execute is empty");
  auto record = container->Get();
  PodPtr pod = TRY(context.pods.Find(record->pod_id()));
  std::shared_ptr<ShimClient> shim = pod->shim();
  if (record->state() != v1::CONTAINER_RUNNING || !shim) {
    return MakeError(Code::kFailedPrecondition, "container '{}' is not running", container->id());
  }
  int64_t timeout = std::clamp<int64_t>(request.timeout(), 0, std::numeric_limits<int32_t>::max() / 1000);
  pod::v1::ExecSyncRequest exec;
  exec.set_container_id(container->id());
  *exec.mutable_args() = request.cmd();
  exec.set_timeout_nanos(timeout * kNanosPerSecond);
  exec.set_limit_bytes(kStreamBytes);
  // CRI: timeout 0 is none; then only the companion's end ends the wait.
  int64_t wait = timeout > 0 ? timeout * 1000 + kGraceMillis : std::numeric_limits<int32_t>::max();
  auto done = TRY(shim->Call<pod::v1::ExecSyncResponse>(service::kPod, "ExecSync", exec, wait));
  if (done.timed_out()) {
    return MakeError(Code::kDeadlineExceeded, "the command in container '{}' timed out after {} s and was killed",
                     container->id(), timeout);
  }
  v1::ExecSyncResponse response;
  response.set_exit_code(done.exit_code());
  response.set_stdout(std::move(*done.mutable_stdout()));
  response.set_stderr(std::move(*done.mutable_stderr()));
  return response;
}

}  // namespace caisson::cri

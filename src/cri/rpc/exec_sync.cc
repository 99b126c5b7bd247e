// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"

#include <chrono>
#include <condition_variable>
#include <limits>
#include <mutex>

#include "base/limits.h"
#include "base/scope_exit.h"
#include "caisson/pod/v1/pod.pb.h"
#include "cri/exec_request.h"

namespace caisson::cri {
namespace {

// The companion ends the process at the timeout; its answer then still has to travel.
constexpr int64_t kGraceMillis = 10'000;
constexpr auto kClientCheck = std::chrono::milliseconds(250);  // how soon a client that is gone is noticed

// One call that may wait long. Shared with its callback, which may come when nobody waits any more.
struct Waiting {
  std::mutex mutex;
  std::condition_variable answered;
  std::optional<Result<std::string>> reply;
};

Result<pod::v1::ExecSyncResponse> CallUnlessCancelled(ShimClient& shim, const char* method, std::string request,
                                                      int64_t wait_millis, const std::function<bool()>& cancelled) {
  auto waiting = std::make_shared<Waiting>();
  shim.ttrpc().Call(service::kPod, method, std::move(request), wait_millis, [waiting](Result<std::string> reply) {
    std::lock_guard lock(waiting->mutex);
    waiting->reply = std::move(reply);
    waiting->answered.notify_all();
  });
  std::unique_lock lock(waiting->mutex);
  while (!waiting->answered.wait_for(lock, kClientCheck, [&] { return waiting->reply.has_value(); })) {
    if (cancelled()) return MakeError(Code::kCancelled, "the client is gone");
  }
  std::string payload = TRY(std::move(*waiting->reply));
  pod::v1::ExecSyncResponse response;
  if (!response.ParseFromString(payload)) {
    return MakeError(Code::kInternal, "the companion's answer to {} does not parse", method);
  }
  return response;
}

// The whole output, in as many parts as it comes.
Result<pod::v1::ExecSyncResponse> Collect(ShimClient& shim, const pod::v1::ExecSyncRequest& exec, int64_t wait_millis,
                                          const std::function<bool()>& cancelled) {
  auto whole = TRY(CallUnlessCancelled(shim, "ExecSync", exec.SerializeAsString(), wait_millis, cancelled));
  pod::v1::ExecSyncMoreRequest more;
  more.set_container_id(exec.container_id());
  more.set_exec_id(exec.exec_id());
  for (bool last = !whole.more(); !last;) {
    if (cancelled()) return MakeError(Code::kCancelled, "the client is gone");
    auto part = TRY(CallUnlessCancelled(shim, "ExecSyncMore", more.SerializeAsString(), wait_millis, cancelled));
    whole.mutable_stdout()->append(part.stdout());
    whole.mutable_stderr()->append(part.stderr());
    last = !part.more();
    part.set_allocated_stdout(whole.release_stdout());
    part.set_allocated_stderr(whole.release_stderr());
    whole = std::move(part);
  }
  return whole;
}

}  // namespace

Result<v1::ExecSyncResponse> ExecSync(Context& context, const v1::ExecSyncRequest& request,
                                      const std::function<bool()>& cancelled) {
  if (request.cmd().empty()) return MakeError(Code::kInvalidArgument, "the command to execute is empty");
  ContainerPtr container = TRY(RunningContainer(context, request.container_id()));
  PodPtr pod = TRY(context.pods.Find(container->Get()->pod_id()));
  std::shared_ptr<ShimClient> shim = pod->shim();
  if (!shim) return MakeError(Code::kFailedPrecondition, "container '{}' is not running", container->id());
  int64_t timeout = std::clamp<int64_t>(request.timeout(), 0, std::numeric_limits<int32_t>::max() / 1000);
  pod::v1::ExecSyncRequest exec;
  exec.set_container_id(container->id());
  exec.set_exec_id(NewExecId(kSyncExec, context.instance));
  *exec.mutable_args() = request.cmd();
  exec.set_timeout_nanos(timeout * kNanosPerSecond);
  exec.set_limit_bytes(limits::kExecSyncBytes);
  // CRI: timeout 0 is none; then only the companion's or the client's end ends the wait.
  int64_t wait = timeout > 0 ? timeout * 1000 + kGraceMillis : std::numeric_limits<int32_t>::max();
  // Nobody will hear of it any more: the process goes with all that came of it.
  ScopeExit kill([&] {
    auto end = KillExec(container->id(), exec.exec_id());
    shim->ttrpc().Call(service::kTask, "Kill", end.SerializeAsString(), kGraceMillis, [](Result<std::string>) {});
  });
  auto done = TRY(Collect(*shim, exec, wait, cancelled));
  kill.Dismiss();
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

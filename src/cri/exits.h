// SPDX-License-Identifier: Apache-2.0
//
// How containers and pods end, as the daemon sees it: an exit is told by the companion (Task.Wait), by the companion's
// own death, or found by recovery. Each container's end is recorded once; the first report wins. Thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cri/context.h"

namespace caisson::cri {

struct Exit {
  int exit_code = 0;
  int64_t started_at_nanos = 0;   // 0: not known better than recorded
  int64_t finished_at_nanos = 0;  // 0: now
  bool oom_killed = false;
  std::string reason;   // empty: Completed, Error or OOMKilled by the above
  std::string message;
};

// Why a VM has ended by itself, as its companion wrote it down before it ended too.
struct VmEnd {
  std::string reason, message;
};
// Nothing: the pod is no VM, or it has ended otherwise.
std::optional<VmEnd> VmEndOf(const Context& context, const std::string& pod_id);

// The exit code of a container whose own is lost.
inline constexpr int kUnknownExitCode = 255;

// Asks the companion to tell the container's end; it is recorded on the background thread.
void WatchExit(Context& context, const ContainerPtr& container, const std::shared_ptr<ShimClient>& shim);
// Records the end and wakes who waits for it.
void RecordExit(Context& context, const ContainerPtr& container, const Exit& exit);
// All containers of a pod.
std::vector<ContainerPtr> ContainersOf(const Context& context, const std::string& pod_id);
// The companion has died (Shims::OnEnd, on the background thread): its containers have ended, and what is left of them is
// removed on a thread of its own.
void PodDied(Context& context, const std::string& pod_id);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include <filesystem>

#include "cri/exits.h"
#include "cri/pod_teardown.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::RemovePodSandboxResponse> RemovePodSandbox(Context& context, const v1::RemovePodSandboxRequest& request) {
  auto pod = context.pods.Find(request.pod_sandbox_id());
  if (!pod) {
    if (pod.error().code == Code::kNotFound) return v1::RemovePodSandboxResponse();
    return std::move(pod.error());
  }
  std::lock_guard lock((*pod)->operation);
  // CRI: containers that are left are forcibly terminated and removed.
  TRY(StopPod(context, *pod));
  for (const ContainerPtr& container : ContainersOf(context, (*pod)->id())) TRY(DiscardContainer(context, container));
  std::error_code error;
  std::string dir = context.config.PodDir((*pod)->id());
  std::filesystem::remove_all(dir, error);
  if (error) return SysError(error.value(), fmt::format("remove '{}'", dir));
  TRY(context.pods.Remove((*pod)->id()));
  // One whose creation began before the stop may have come into the index since (see create_container.cc).
  for (const ContainerPtr& container : ContainersOf(context, (*pod)->id())) TRY(DiscardContainer(context, container));
  return v1::RemovePodSandboxResponse();
}

}  // namespace caisson::cri

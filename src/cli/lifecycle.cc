// SPDX-License-Identifier: Apache-2.0
#include "cli/lifecycle.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

Result<> StopPod(Client& client, const std::string& pod_id) {
  runtime::v1::StopPodSandboxRequest request;
  request.set_pod_sandbox_id(pod_id);
  TRY(client.Call(client.runtime(), &RuntimeService::Stub::StopPodSandbox, request));
  return {};
}

Result<> RemovePod(Client& client, const std::string& pod_id) {
  runtime::v1::RemovePodSandboxRequest request;
  request.set_pod_sandbox_id(pod_id);
  TRY(client.Call(client.runtime(), &RuntimeService::Stub::RemovePodSandbox, request));
  return {};
}

Result<> StopContainer(Client& client, const std::string& container_id, int64_t grace_seconds) {
  runtime::v1::StopContainerRequest request;
  request.set_container_id(container_id);
  request.set_timeout(grace_seconds);
  TRY(client.Call(client.runtime(), &RuntimeService::Stub::StopContainer, request, static_cast<int>(grace_seconds) + 60));
  return {};
}

Result<> RemoveContainer(Client& client, const std::string& container_id) {
  runtime::v1::RemoveContainerRequest request;
  request.set_container_id(container_id);
  TRY(client.Call(client.runtime(), &RuntimeService::Stub::RemoveContainer, request));
  return {};
}

}  // namespace caisson::cli

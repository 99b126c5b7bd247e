// SPDX-License-Identifier: Apache-2.0
#include "containerd/task_v3.pb.h"
#include "cri/container_spec.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {
namespace {

// The type that containerd's clients send for OCI resources; the value is the JSON of the spec's linux.resources.
constexpr const char* kResourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

}  // namespace

Result<v1::UpdateContainerResourcesResponse> UpdateContainerResources(
    Context& context, const v1::UpdateContainerResourcesRequest& request) {
  ContainerPtr container = TRY(context.containers.Find(request.container_id()));
  std::lock_guard lock(container->operation);
  auto record = container->Get();
  PodPtr pod = TRY(context.pods.Find(record->pod_id()));
  std::shared_ptr<ShimClient> shim = pod->shim();
  bool live = record->state() == v1::CONTAINER_RUNNING || record->state() == v1::CONTAINER_CREATED;
  if (!live || !shim) {
    return MakeError(Code::kFailedPrecondition, "container '{}' is neither created nor running", container->id());
  }
  v1::LinuxContainerResources merged = record->resources();
  MergeResources(request.linux(), &merged);
  containerd::task::v3::UpdateTaskRequest update;
  update.set_id(container->id());
  update.mutable_resources()->set_type_url(kResourcesType);
  update.mutable_resources()->set_value(TRY(ResourcesJson(context.config, merged, pod->Get()->has_vm())));
  TRY(shim->Call<wkt::Empty>(service::kTask, "Update", update));
  TRY(context.containers.Update(container, [&](ContainerRecord& changed) { *changed.mutable_resources() = merged; }));
  context.sampler.Outdate();
  return v1::UpdateContainerResourcesResponse();
}

}  // namespace caisson::cri

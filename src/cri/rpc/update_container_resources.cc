// SPDX-License-Identifier: Apache-2.0
#include "containerd/task_v3.pb.h"
#include "cri/container_spec.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {
namespace {

// The type that containerd's clients send for OCI resources; the value is the JSON of the spec's linux.resources.
constexpr const char* kResourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

// CRI: what the request leaves at its zero value stays as it is.
void MergeInto(const v1::LinuxContainerResources& update, v1::LinuxContainerResources* resources) {
  if (update.cpu_period()) resources->set_cpu_period(update.cpu_period());
  if (update.cpu_quota()) resources->set_cpu_quota(update.cpu_quota());
  if (update.cpu_shares()) resources->set_cpu_shares(update.cpu_shares());
  if (update.memory_limit_in_bytes()) resources->set_memory_limit_in_bytes(update.memory_limit_in_bytes());
  if (update.memory_swap_limit_in_bytes()) {
    resources->set_memory_swap_limit_in_bytes(update.memory_swap_limit_in_bytes());
  }
  if (update.oom_score_adj()) resources->set_oom_score_adj(update.oom_score_adj());
  if (!update.cpuset_cpus().empty()) resources->set_cpuset_cpus(update.cpuset_cpus());
  if (!update.cpuset_mems().empty()) resources->set_cpuset_mems(update.cpuset_mems());
  for (const auto& limit : update.hugepage_limits()) {
    bool known = false;
    for (auto& have : *resources->mutable_hugepage_limits()) {
      if (have.page_size() == limit.page_size()) have.set_limit(limit.limit()), known = true;
    }
    if (!known) *resources->add_hugepage_limits() = limit;
  }
  for (const auto& [key, value] : update.unified()) (*resources->mutable_unified())[key] = value;
}

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
  MergeInto(request.linux(), &merged);
  containerd::task::v3::UpdateTaskRequest update;
  update.set_id(container->id());
  update.mutable_resources()->set_type_url(kResourcesType);
  update.mutable_resources()->set_value(TRY(ResourcesJson(context.config, merged)));
  TRY(shim->Call<wkt::Empty>(service::kTask, "Update", update));
  TRY(context.containers.Update(container, [&](ContainerRecord& changed) { *changed.mutable_resources() = merged; }));
  return v1::UpdateContainerResourcesResponse();
}

}  // namespace caisson::cri

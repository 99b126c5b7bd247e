// SPDX-License-Identifier: Apache-2.0
//
// Every CRI verb that caissond implements; see context.h for the rule. One file per verb. A verb that is not here
// answers Unimplemented.
#pragma once

#include <functional>
#include <optional>

#include "cri/context.h"
#include "cri/v1/api.pb.h"

namespace caisson::cri {

namespace v1 = runtime::v1;

#define CAISSON_RPC(Verb) Result<v1::Verb##Response> Verb(Context& context, const v1::Verb##Request& request)

// Life cycle.
CAISSON_RPC(CheckpointContainer);
CAISSON_RPC(RunPodSandbox);
CAISSON_RPC(StopPodSandbox);
CAISSON_RPC(RemovePodSandbox);
CAISSON_RPC(PodSandboxStatus);
CAISSON_RPC(ListPodSandbox);
CAISSON_RPC(CreateContainer);
CAISSON_RPC(StartContainer);
CAISSON_RPC(StopContainer);
CAISSON_RPC(RemoveContainer);
CAISSON_RPC(ListContainers);
CAISSON_RPC(ContainerStatus);
// Ends the process when `cancelled` says that the client is gone.
Result<v1::ExecSyncResponse> ExecSync(Context& context, const v1::ExecSyncRequest& request,
                                      const std::function<bool()>& cancelled);
CAISSON_RPC(Exec);
CAISSON_RPC(Attach);
CAISSON_RPC(PortForward);
CAISSON_RPC(ReopenContainerLog);
CAISSON_RPC(UpdateContainerResources);
CAISSON_RPC(UpdatePodSandboxResources);
CAISSON_RPC(UpdateRuntimeConfig);

// The daemon itself.
CAISSON_RPC(Version);
CAISSON_RPC(Status);
CAISSON_RPC(RuntimeConfig);

// Figures.
CAISSON_RPC(ContainerStats);
CAISSON_RPC(ListContainerStats);
CAISSON_RPC(PodSandboxStats);
CAISSON_RPC(ListPodSandboxStats);
CAISSON_RPC(ListMetricDescriptors);
CAISSON_RPC(ListPodSandboxMetrics);

// Images.
CAISSON_RPC(ListImages);
CAISSON_RPC(ImageStatus);
CAISSON_RPC(PullImage);
CAISSON_RPC(RemoveImage);
CAISSON_RPC(ImageFsInfo);

#undef CAISSON_RPC

// What the status calls and events say of a record.
v1::PodSandboxStatus PodStatusOf(const PodRecord& record);
v1::ContainerStatus ContainerStatusOf(const ContainerRecord& record);

// The container if it runs; else kFailedPrecondition, or kNotFound.
Result<ContainerPtr> RunningContainer(Context& context, const std::string& id);

// The image of a name, or none.
Result<std::optional<image::Image>> FindImage(Context& context, const std::string& name);
// Pulls an image, as PullImage and the control service do, and writes it into the log; `door` says for whom: "the CRI".
Result<image::Image> FetchImage(Context& context, const std::string& reference, image::PullOptions options, const char* door);

}  // namespace caisson::cri

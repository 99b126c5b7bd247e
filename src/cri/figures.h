// SPDX-License-Identifier: Apache-2.0
//
// What the stats verbs say of containers: asked from all companions concerned at once, each for all of its containers,
// so that fifty pods take as long as one, and one that does not answer takes no longer than kFiguresMillis.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "caisson/pod/v1/pod.pb.h"
#include "cri/context.h"
#include "cri/sampler.h"
#include "cri/v1/api.pb.h"
#include "net/netns.h"

namespace caisson::cri {

// How long a companion has for its answer.
inline constexpr int64_t kFiguresMillis = 2000;

// What the companions of those of `containers` that have not ended say of them (and of others in the same pods), and, with
// kPods, of the pods, by their ids; who does not answer in time is left out.
FiguresById AskFigures(Context& context, const std::vector<ContainerPtr>& containers, Ask ask);

struct ContainerFigures {
  runtime::v1::ContainerStats message;
  uint64_t processes = 0;
  bool answered = false;  // the companion has; else there is nothing but attributes and the writable layer
};

// In the order of `containers`.
std::vector<ContainerFigures> ReadFigures(Context& context, const std::vector<ContainerPtr>& containers);
// The same of what the companions have said already.
std::vector<ContainerFigures> ReadFigures(Context& context, const std::vector<ContainerPtr>& containers, const FiguresById& known);

// Of those of `pods` that are ready, and of their running containers, read now.
StatsSample TakeSample(Context& context, const std::vector<PodPtr>& pods, Ask ask);
// The running containers of `pods`.
std::vector<ContainerPtr> RunningContainers(Context& context, const std::vector<PodPtr>& pods);

// What a pod has beside its containers.
struct PodFigures {
  const std::vector<net::InterfaceStats>* interfaces = nullptr;  // null: no network of its own
  const pod::v1::ContainerStats* group = nullptr;                // of its own cgroup; null: the sums of its containers instead
  int64_t interfaces_at_nanos = 0;                               // CLOCK_REALTIME
};
// The figures of one pod with those of its running containers.
runtime::v1::PodSandboxStats PodStatsMessage(const PodRecord& pod, const PodFigures& own, CpuRates* rates,
                                             std::vector<ContainerFigures> containers);
// The same of several pods, in their order, as they are in the sample of Ask::kPods.
std::vector<runtime::v1::PodSandboxStats> PodFiguresOf(Context& context, const std::vector<PodPtr>& pods, const StatsSample& sample);

// What a companion says in the CRI's words, without the writable layer. Pure but for the rate.
void SetFigures(const pod::v1::ContainerStats& figures, CpuRates* rates, runtime::v1::ContainerStats* message);

}  // namespace caisson::cri

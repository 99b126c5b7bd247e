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
#include "cri/v1/api.pb.h"
#include "net/netns.h"

namespace caisson::cri {

// How long a companion has for its answer.
inline constexpr int64_t kFiguresMillis = 2000;

using FiguresById = std::map<std::string, pod::v1::ContainerStats>;
// What the companions of those of `containers` that have not ended say of them (and of others in the same pods), and, with
// kPods, of the pods, by their ids; who does not answer in time is left out.
enum class Ask { kUsage, kDetail, kPods };
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
using InterfacesOfPods = std::map<std::string, std::vector<net::InterfaceStats>>;  // by pod
// Those of `pods` that are ready and have a network of their own.
InterfacesOfPods ReadInterfaces(const std::vector<std::shared_ptr<const PodRecord>>& pods);

// What a pod has beside its containers.
struct PodFigures {
  const std::vector<net::InterfaceStats>* interfaces = nullptr;  // null: no network of its own
  const pod::v1::ContainerStats* group = nullptr;                // of its own cgroup; null: the sums of its containers instead
};
// The figures of one pod with those of its running containers.
runtime::v1::PodSandboxStats PodStatsMessage(const PodRecord& pod, const PodFigures& own, CpuRates* rates,
                                             std::vector<ContainerFigures> containers);
// The same of several pods, in their order.
std::vector<runtime::v1::PodSandboxStats> ReadPodFigures(Context& context, const std::vector<PodPtr>& pods);

// What a companion says in the CRI's words, without the writable layer. Pure but for the rate.
void SetFigures(const pod::v1::ContainerStats& figures, CpuRates* rates, runtime::v1::ContainerStats* message);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// The metrics of pods that the kubelet asks for instead of looking itself (KEP-2371), under the names that cAdvisor has made
// known: which there are, and their values. The CRI's values are whole numbers: seconds are rounded down.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "caisson/pod/v1/pod.pb.h"
#include "cri/context.h"
#include "cri/v1/api.pb.h"
#include "net/netns.h"

namespace caisson::cri {

// One container's figures, with ContainerStats.detail.
struct ContainerSample {
  std::shared_ptr<const ContainerRecord> record;
  pod::v1::ContainerStats stats;
  std::optional<uint64_t> layer_bytes;  // of its writable layer
};

// Every metric there is, once.
std::vector<runtime::v1::MetricDescriptor> MetricDescriptors();

// The metrics of one pod and of its containers, at `at_nanos` (CLOCK_REALTIME). Reads the names of block devices below /sys.
runtime::v1::PodSandboxMetrics PodMetrics(const PodRecord& pod, const std::vector<net::InterfaceStats>& interfaces,
                                          const std::vector<ContainerSample>& containers, int64_t at_nanos);

// Of all pods that are ready; companions that do not answer in time are left out.
std::vector<runtime::v1::PodSandboxMetrics> ReadPodMetrics(Context& context);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// Figures of VM pods for Prometheus: of each machine's VMM and companion, of its guest and agent, of the calls to that agent. All
// companions are asked at once, for at most kFiguresMillis (figures.h); of one that does not answer there is nothing, of a guest
// that does not answer nothing but `vm_guest_answers` 0.
#pragma once

#include <vector>

#include "caisson/pod/v1/pod.pb.h"
#include "cri/daemon_metrics.h"
#include "cri/pod_index.h"

namespace caisson::cri {

// Of one pod's machine. Pure.
std::vector<Reading> VmReadings(const PodRecord& pod, const pod::v1::VmMetricsResponse& figures);
// Of all VM pods that are ready.
std::vector<Reading> ReadVms(PodIndex& pods);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// What another project's shim says of a container's use (Task.Stats: io.containerd.cgroups.v1 or v2 Metrics) as caisson.pod.v1 has it. Pure.
#pragma once

#include "base/result.h"
#include "caisson/pod/v1/pod.pb.h"
#include "caisson/wkt/wkt.pb.h"

namespace caisson::shim {

// kUnimplemented for figures of another type, kInternal for what does not parse. The container's id and the time are the caller's to fill in.
Result<pod::v1::ContainerStats> StatsOfMetrics(const wkt::Any& metrics, bool detail);

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "caisson/wkt/wkt.pb.h"
#include "oci/cgroup.h"

namespace caisson::task {

// Cgroup figures as containerd's clients expect them: io.containerd.cgroups.v1.Metrics or v2.Metrics in an Any.
void FillMetrics(const oci::CgroupStats& stats, bool v2, wkt::Any* any);

}  // namespace caisson::task

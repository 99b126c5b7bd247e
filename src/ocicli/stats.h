// SPDX-License-Identifier: Apache-2.0
//
// What a container has used, in the JSON that `events` of other runtimes prints. Pure.
#pragma once

#include "base/json.h"
#include "oci/cgroup.h"

namespace caisson::ocicli {

Json StatsJson(const oci::CgroupStats& stats);

}  // namespace caisson::ocicli

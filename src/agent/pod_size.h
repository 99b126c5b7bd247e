// SPDX-License-Identifier: Apache-2.0
//
// What a pod may have of its machine while that runs: processors, of which some may stand still (Documentation/core-api/cpu_hotplug.rst),
// and memory, by the cgroup that holds its containers' cgroups.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace caisson::agent {

// The cgroup of a pod in its guest; each container's is below it.
inline constexpr char kPodCgroup[] = "/pod";

// So many run, the first ones; 0: as they are. kFailedPrecondition: more than the machine has. Returns how many do run: the kernel may refuse
// to start or stop one. Starting one takes some milliseconds, emulated some hundred.
Result<uint32_t> SetProcessors(uint32_t count);

// What the kernel uses of the memory that the machine has, in whole blocks of it (Documentation/admin-guide/mm/memory-hotplug.rst). 0: it
// cannot tell, for no memory can be plugged into it.
uint64_t UsedMemoryBlocks();

// Of all containers together; at most 0: no limit. kFailedPrecondition: they use more.
Result<> LimitPodMemory(int64_t bytes);

}  // namespace caisson::agent

// SPDX-License-Identifier: Apache-2.0
//
// What a process of ours, and all that it starts, can never have again (capabilities(7)). No state; the calling thread.
#pragma once

#include "base/result.h"

namespace caisson::sys {

// Empties the bounding set and the ambient set. Needs CAP_SETPCAP. Errors: what prctl(2) says.
Result<> EmptyBoundingSet();

}  // namespace caisson::sys

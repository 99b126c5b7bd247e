// SPDX-License-Identifier: Apache-2.0
//
// The guest's clock, CLOCK_REALTIME, moved by as much as the host says that it is wrong (shim/guest_clock.h).
#pragma once

#include <cstdint>

#include "base/result.h"

namespace caisson::agent {

// Forward at once. Back by less than a second: gradually, half a millisecond a second (adjtime(3)), in place of what is under way, so that nobody sees it go
// back; by more at once. 0: nothing changes. Errors: what the kernel says.
Result<> AdjustClock(int64_t nanos);

}  // namespace caisson::agent

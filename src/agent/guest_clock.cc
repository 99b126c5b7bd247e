// SPDX-License-Identifier: Apache-2.0
#include "agent/guest_clock.h"

#include <sys/time.h>

#include <ctime>

#include "base/clock.h"

namespace caisson::agent {

Result<> AdjustClock(int64_t nanos) {
  if (nanos == 0) return {};
  const bool gradually = nanos < 0 && nanos > -kNanosPerSecond;
  timeval delta{0, gradually ? static_cast<suseconds_t>(nanos / 1000) : 0};
  if (adjtime(&delta, nullptr) != 0) return ErrnoError("move the clock by {} ns gradually", nanos);
  if (gradually) return {};
  const int64_t wanted = NowNanos() + nanos;
  timespec time{wanted / kNanosPerSecond, wanted % kNanosPerSecond};
  if (clock_settime(CLOCK_REALTIME, &time) != 0) return ErrnoError("move the clock by {} ns", nanos);
  return {};
}

}  // namespace caisson::agent

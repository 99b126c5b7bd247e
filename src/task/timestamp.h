// SPDX-License-Identifier: Apache-2.0
//
// Times as containerd's messages have them.
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "caisson/wkt/wkt.pb.h"

namespace caisson::task {

// `nanos`: since 1970.
inline void SetTime(int64_t nanos, wkt::Timestamp* time) {
  time->set_seconds(nanos / kNanosPerSecond);
  time->set_nanos(static_cast<int32_t>(nanos % kNanosPerSecond));
}

}  // namespace caisson::task

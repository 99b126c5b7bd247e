// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

#include <ctime>

#include <cstdio>

namespace caisson {
namespace {
int64_t Now(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * kNanosPerSecond + now.tv_nsec;
}
}  // namespace

int64_t NowNanos() { return Now(CLOCK_REALTIME); }
int64_t MonotonicNanos() { return Now(CLOCK_MONOTONIC); }

std::string FormatRfc3339Nano(int64_t nanos) {
  int64_t fraction = nanos % kNanosPerSecond;
  time_t seconds = nanos / kNanosPerSecond;
  if (fraction < 0) {
    fraction += kNanosPerSecond;
    --seconds;
  }
  tm parts{};
  gmtime_r(&seconds, &parts);
  char text[64];
  std::snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%09ldZ", parts.tm_year + 1900, parts.tm_mon + 1,
                parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, static_cast<long>(fraction));
  return text;
}

}  // namespace caisson

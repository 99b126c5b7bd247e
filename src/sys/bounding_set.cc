// SPDX-License-Identifier: Apache-2.0
#include "sys/bounding_set.h"

#include <sys/prctl.h>

#include <cerrno>

namespace caisson::sys {

Result<> EmptyBoundingSet() {
  for (unsigned long right = 0; prctl(PR_CAPBSET_DROP, right, 0, 0, 0) == 0; ++right) {
  }
  if (errno != EINVAL) return ErrnoError("empty the bounding set");
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) return ErrnoError("clear ambient capabilities");
  return {};
}

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
//
// CNI CHECK of the pods that a former daemon attached, once, after the start: what was taken from a pod's network while
// nobody looked. It changes nothing and fails no pod: the result is in the pod's record (verbose status) and, when a
// network is not as it was made, in the log.
#pragma once

#include "cri/context.h"

namespace caisson::cri {

// Begins to check all pods that are ready and attached; returns at once. A pod's other operations wait while it is
// checked (Cni::Check has a deadline of seconds).
void CheckNetworks(Context& context);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// Two interfaces of the calling thread's network namespace joined by traffic control (tc(8)): every frame that comes in on
// one goes out on the other, and never reaches the namespace's own stack. What a VM's tap needs: no bridge, no change of
// the interface that CNI has made. It lasts as long as both interfaces.
#pragma once

#include "base/result.h"

namespace caisson::net {

// Joins them by their index. Errors: kAlreadyExists when one has an ingress qdisc already; nothing is changed then.
Result<> JoinInterfaces(int one, int other);
// Takes the ingress qdisc, with what JoinInterfaces put there, off an interface. Absent, or no such interface: success.
Result<> ReleaseInterface(int index);

}  // namespace caisson::net

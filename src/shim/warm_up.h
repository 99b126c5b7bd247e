// SPDX-License-Identifier: Apache-2.0
//
// WarmUp: has a guest that is no pod yet make, run and end a container. Of the guest and of its VMM all is then there that the first
// container would have to wait for: under emulation the guest's code is translated, which takes longer than running it. Nothing of
// the container is left. One thread, the loop's.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "caisson/pod/v1/pod.pb.h"
#include "shim/guest_client.h"
#include "vmm/vm.h"

namespace caisson::shim {

inline constexpr char kWarmUpContainer[] = "warm-up";

// `client` and `vm` outlive it. `done` hears the first error, or that all of it has been done.
void RunWarmUp(const pod::v1::WarmUpRequest& request, GuestClient* client, vmm::Vm* vm, std::function<void(Result<>)> done);

}  // namespace caisson::shim

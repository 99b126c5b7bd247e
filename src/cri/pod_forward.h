// SPDX-License-Identifier: Apache-2.0
//
// Connections to ports inside pods whose network only their companion reaches (VMs), for PortForward: the companion dials
// (caisson.pod.v1.Pod's Forward) and then connects to a socket of ours, which stands for the port from then on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cri/shim_client.h"
#include "sys/event_loop.h"

namespace caisson::cri {

// Any thread. `socket_path` does not exist, in a folder of ours; it is gone when `done` is called, once, on the loop's thread,
// with a connected non-blocking socket, within limits::kForwardConnectMillis and what the companion takes to say so. `shim`
// may be null: the pod has no companion.
void ForwardThroughCompanion(std::weak_ptr<sys::EventLoop> loop, std::shared_ptr<ShimClient> shim, const std::string& socket_path,
                             uint16_t port, std::function<void(Result<UniqueFd>)> done);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// The control service (caisson.control.v1): what the command `caisson` asks beyond the CRI. Served on the CRI's socket,
// so for those only who may do everything anyway. Thread-safe.
#pragma once

#include <memory>

#include "cri/context.h"

namespace grpc {
class Service;
}

namespace caisson::cri {

// `context` outlives the service.
std::unique_ptr<grpc::Service> MakeControlService(Context& context);

}  // namespace caisson::cri

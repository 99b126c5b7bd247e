// SPDX-License-Identifier: Apache-2.0
//
// What a client is told of an error. Logs it too: the one place that does.
#pragma once

#include <grpcpp/support/status.h>

#include "base/result.h"

namespace caisson::cri {

grpc::Status ToStatus(const char* verb, const Error& error);
// "OK", "NOT_FOUND", …
const char* CodeName(grpc::StatusCode code);

}  // namespace caisson::cri

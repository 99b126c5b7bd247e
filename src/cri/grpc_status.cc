// SPDX-License-Identifier: Apache-2.0
#include "cri/grpc_status.h"

#include <iterator>

#include "base/log.h"

namespace caisson::cri {
namespace {

constexpr size_t kMaxMessageChars = 3000;  // a status message travels in a header, which clients limit to 8 KiB

}  // namespace

grpc::Status ToStatus(const char* verb, const Error& error) {
  // A list of what was asked for and is not there is everyday business of a kubelet.
  if (error.code == Code::kNotFound) {
    log::Debug("{}: {}", verb, error.message);
  } else {
    log::Warn("{}: {}", verb, error.message);
  }
  return {static_cast<grpc::StatusCode>(error.code), error.message.substr(0, kMaxMessageChars)};
}

const char* CodeName(grpc::StatusCode code) {
  constexpr const char* kNames[] = {"OK",        "CANCELLED",     "UNKNOWN",      "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
                                    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
                                    "UNIMPLEMENTED", "INTERNAL",     "UNAVAILABLE",  "DATA_LOSS",        "UNAUTHENTICATED"};
  return code >= 0 && static_cast<size_t>(code) < std::size(kNames) ? kNames[code] : "UNKNOWN";
}

}  // namespace caisson::cri

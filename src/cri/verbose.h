// SPDX-License-Identifier: Apache-2.0
//
// The verbose information of the status calls, as JSON for people and tools. Pure.
#pragma once

#include <string>

#include "cri/container_index.h"
#include "cri/pod_index.h"

namespace caisson::cri {

using Timeline = google::protobuf::RepeatedPtrField<daemon::v1::TimelineStep>;

// A message as JSON, its fields named as in the .proto.
std::string MessageJson(const google::protobuf::Message& message);
// The entry "info".
std::string PodInfoJson(const PodRecord& record);
std::string ContainerInfoJson(const ContainerRecord& record, const std::string& bundle);
// The entry "timeline": an array of {"operation", "name", "begin_nanos", "end_nanos", "error"}, error "" if it succeeded.
std::string TimelineJson(const Timeline& timeline);

}  // namespace caisson::cri

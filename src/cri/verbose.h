// SPDX-License-Identifier: Apache-2.0
//
// The verbose information of the status calls, as JSON for people and tools. Pure.
#pragma once

#include <string>

#include "cri/container_index.h"
#include "cri/pod_index.h"

namespace caisson::cri {

std::string PodInfoJson(const PodRecord& record);
std::string ContainerInfoJson(const ContainerRecord& record, const std::string& bundle);

}  // namespace caisson::cri

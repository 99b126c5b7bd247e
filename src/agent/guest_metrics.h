// SPDX-License-Identifier: Apache-2.0
//
// Figures of the guest as a machine and of the agent in it, of proc(5).
#pragma once

#include <string_view>

#include "base/result.h"
#include "caisson/guest/v1/guest.pb.h"

namespace caisson::agent {

// What the kernel says in /proc; `status` is the agent's own.
struct ProcTexts {
  std::string_view meminfo, stat, loadavg, vmstat, status;
};
// What a text does not have stays 0. Pure.
void FillGuestMetrics(const ProcTexts& texts, guest::v1::MetricsResponse* response);

Result<guest::v1::MetricsResponse> ReadGuestMetrics();

}  // namespace caisson::agent

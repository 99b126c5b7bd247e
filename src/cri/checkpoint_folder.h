// SPDX-License-Identifier: Apache-2.0
//
// Names in Config::CheckpointsDir: ID is what container ID is restored from, until it is started; ID-dump what is being dumped
// of it, until the archive is written.
#pragma once

#include <string_view>

namespace caisson::cri {

inline constexpr std::string_view kDumpSuffix = "-dump";

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace caisson::cri {

inline constexpr const char* kVersion = CAISSON_VERSION;

}  // namespace caisson::cri

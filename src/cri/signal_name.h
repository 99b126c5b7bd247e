// SPDX-License-Identifier: Apache-2.0
//
// Names of signals as images and the CRI write them. Pure.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace caisson::cri {

// "SIGTERM", "term", "15", "SIGRTMIN+3", "SIGRTMINPLUS3" -> its number on Linux. kInvalidArgument for anything else.
Result<int> SignalNumber(std::string_view word);
// The name as the CRI's Signal enum spells it ("SIGTERM", "SIGRTMINPLUS3", "SIGRTMAXMINUS1"); empty for no signal.
std::string SignalName(int number);

}  // namespace caisson::cri

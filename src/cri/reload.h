// SPDX-License-Identifier: Apache-2.0
//
// What SIGHUP can change in a daemon that runs. Any thread.
#pragma once

#include <string>
#include <vector>

#include "cri/config.h"

namespace caisson::cri {

// The keys, as "table.key" of the file, whose values differ between two configurations; in the order of the file. A handler
// is one key, "handlers.NAME".
std::vector<std::string> ChangedKeys(const Config& before, const Config& after);

// Whether a change of that key takes effect without a start anew.
bool TakesEffectAtOnce(const std::string& key);

}  // namespace caisson::cri

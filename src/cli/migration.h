// SPDX-License-Identifier: Apache-2.0
//
// What other runtimes' settings are in caissond's configuration. Pure.
#pragma once

#include <string>
#include <vector>

#include "cli/settings.h"

namespace caisson::cli {

struct Migration {
  std::string toml;                // a file for caissond
  std::vector<std::string> notes;  // a line for each setting that has no counterpart, with the reason where there is one to say
};

// containerd's config.toml of versions 1 to 3 (docs/cri/config.md of containerd): its CRI plugins', and what is beside the plugins.
Migration MigrateContainerd(const std::vector<Setting>& settings);
// CRI-O's crio.conf(5).
Migration MigrateCrio(const std::vector<Setting>& settings);

}  // namespace caisson::cli

// SPDX-License-Identifier: Apache-2.0
//
// What other runtimes' settings are in caissond's configuration. Pure.
#pragma once

#include <string>
#include <vector>

#include "cli/registries.h"
#include "cli/settings.h"

namespace caisson::cli {

struct Migration {
  std::string toml;                // a file for caissond
  std::vector<std::string> notes;  // a line for each setting that has no counterpart, with the reason where there is one to say
  Registries registries;           // for <certs_dir>/<name>/hosts.toml
};

// containerd's config.toml of versions 1 to 3 (docs/cri/config.md of containerd): its CRI plugins', and what is beside the plugins. `certs_dir`:
// where the registries will be, if there are any.
Migration MigrateContainerd(const std::vector<Setting>& settings, const std::string& certs_dir);
// CRI-O's crio.conf(5), and the registries beside it.
Migration MigrateCrio(const std::vector<Setting>& settings, Registries registries, const std::string& certs_dir);

}  // namespace caisson::cli

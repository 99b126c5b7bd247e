// SPDX-License-Identifier: Apache-2.0
//
// A CNI network configuration, read from a .conflist file or from a .conf or .json file that configures one plugin
// (CNI spec 1.1, section 1). Foreign text: bounded and checked, errors name the field. Plain values; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson::net {

struct PluginConf {
  std::string type;                       // the executable's name: one path component
  std::vector<std::string> capabilities;  // those declared true: "portMappings", "bandwidth", …
  std::string json;                       // the plugin's own object, unaltered in meaning
};

struct Conflist {
  std::string name;
  std::string version;  // the newest of cniVersion and cniVersions that Caisson speaks
  bool disable_check = false, disable_gc = false;
  std::vector<PluginConf> plugins;
  std::string json;  // the whole, always as a list
};

enum class ConfForm { kList, kSinglePlugin };

// Errors: kInvalidArgument naming the field.
Result<Conflist> ParseConflist(std::string_view text, ConfForm form);

// CNI versions that Caisson speaks: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0.
bool IsKnownVersion(std::string_view version);
// Of two known versions.
bool VersionAtLeast(std::string_view version, std::string_view least);

}  // namespace caisson::net

// SPDX-License-Identifier: Apache-2.0
//
// What a CNI plugin is given: its stdin (spec 1.1, "Deriving execution configuration from plugin configuration") and
// its environment. Pure; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "net/cni.h"
#include "net/conflist.h"

namespace caisson::net {

struct PluginInput {
  const Attachment* attachment = nullptr;          // runtimeConfig of the capabilities that the plugin declares
  std::string_view prev_result;                    // JSON, or empty
  const std::vector<Attachment>* valid = nullptr;  // of GC
};

// Errors: kInvalidArgument when a JSON text of the caller's is none.
Result<std::string> MakeInput(const Conflist& list, const PluginConf& plugin, const PluginInput& input);

// Errors: kInvalidArgument for what cannot be said in a CNI_ variable. `attachment` is null for STATUS and GC.
Result<std::vector<std::string>> MakeEnvironment(std::string_view command, const std::vector<std::string>& bin_dirs,
                                                 const Attachment* attachment);

}  // namespace caisson::net

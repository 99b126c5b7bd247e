// SPDX-License-Identifier: Apache-2.0
//
// A config.json of ours made fit for another project's OCI runtime: what only our launcher knows (the pod's /dev/shm, images as
// volumes, users by name) is put into the runtime-spec's words. Pure but for reading what this process may do.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"
#include "oci/spec.h"

namespace caisson::oci {

// Of the runtime specification that their configurations say: nothing later is in them, and Debian 12's crun 1.8.1 takes no later one.
inline constexpr char kForeignVersion[] = "1.0.2";

struct ForeignConfigInputs {
  std::string root_path;            // absolute, where the root is mounted
  ProcessSpec process;              // its user resolved, its environment complete
  std::string shm_path;             // the pod's /dev/shm; empty: it has none
  std::vector<std::string> images;  // where each mount of type "caisson-image" is, in order
  std::map<std::string, std::string> annotations;  // further ones
};

// `config` was parsed by ParseSpec without an error. kUnimplemented: mounts with id maps, which those runtimes pass over in silence.
Result<> MakeForeign(const ForeignConfigInputs& inputs, nlohmann::json* config);

// The runtime-spec's `process` object. Limits and oom_score_adj that this process may not set are as near as it may.
nlohmann::json ForeignProcess(const ProcessSpec& process);

}  // namespace caisson::oci

// SPDX-License-Identifier: Apache-2.0
//
// Importing: docker-archive (`docker save`), oci-archive, OCI layout folders. Archives are unpacked into a scratch folder
// first, under the rules for layers; everything in them is verified as if it came from a registry.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "image/store_state.h"

namespace caisson::image {

// The ids of the images of `path`. `scratch`: an existing folder for what must be unpacked, emptied by the caller.
Result<std::vector<std::string>> ImportImages(StoreState& state, const std::string& path, const std::string& name_if_untagged, const std::string& scratch);

}  // namespace caisson::image

// SPDX-License-Identifier: Apache-2.0
//
// An image from its manifest, its config and a source of blobs: layers that are missing are fetched and unpacked in
// parallel, then the image is recorded. Pulling and importing end here.
#pragma once

#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/result.h"
#include "image/image_store.h"
#include "image/layer_fetch.h"
#include "image/store_state.h"

namespace caisson::image {

struct AssembleRequest {
  Manifest manifest;
  std::string manifest_digest, manifest_bytes, root_digest, root_bytes;
  std::string config_bytes;            // verified; empty for an artifact
  std::vector<std::string> names;      // tags and repository@digest
  BlobSource source;
  std::function<void(const Progress&)> on_progress;
  int parallel = 3;
  std::stop_token cancel;
};

// The image's id; an artifact's (IsArtifact) is that of its manifest, and its files are its one layer. On failure no image and no layer of it is left that was not there before; blobs that were begun stay to
// be resumed.
Result<std::string> AssembleImage(StoreState& state, const AssembleRequest& request);

}  // namespace caisson::image

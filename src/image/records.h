// SPDX-License-Identifier: Apache-2.0
//
// The image store's records, as kept in Metadata. Plain values.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "image/image_store.h"

namespace caisson::image {

struct ImageRecord {
  std::string id, root_digest, manifest_digest, config_bytes;
  std::vector<std::string> chain;  // chain ids (image-spec config.md), the lowest layer first
  std::vector<std::string> blobs;  // digests of all that the image needs
  uint64_t size_bytes = 0;
  int64_t pulled_at_nanos = 0;
  std::string artifact_type;  // empty: an image; else there is no config and one layer that holds the files
};

struct LayerRecord {
  std::string chain_id, folder, boot_id;  // folder: the name in <root>/l
  uint64_t bytes = 0, inodes = 0;
  bool synced = false;  // its content has reached the disk; else it is believed only in the boot that unpacked it
};

struct SnapshotRecord {
  std::string key, image_id;
  std::vector<std::string> chain;
  bool view = false;  // nothing of its own on disk
};

Json ToJson(const ImageRecord& record);
Json ToJson(const LayerRecord& record);
Json ToJson(const SnapshotRecord& record);
// Errors: kDataLoss for a record that is not of the kind.
Result<ImageRecord> ImageFromJson(const std::string& id, const Json& json);
Result<LayerRecord> LayerFromJson(const std::string& id, const Json& json);
Result<SnapshotRecord> SnapshotFromJson(const std::string& id, const Json& json);

// The chain ids of layers with these diff ids.
std::vector<std::string> ChainIds(const std::vector<std::string>& diff_ids);

}  // namespace caisson::image

// SPDX-License-Identifier: Apache-2.0
//
// The archive of a container's checkpoint as a file: a tar with, at its top, what other runtimes put there too
// (checkpointctl(1) shows it): config.dump, spec.dump, status.dump, dump.log, stats-dump, rootfs-diff.tar, and in
// checkpoint/ the images that criu(8) wrote. rootfs-diff.tar is the writable layer as an OCI layer (image-spec layer.md).
//
// Any thread; a call blocks as long as the disk needs. What is packed must not change meanwhile, but is otherwise foreign,
// and so is every archive that is opened.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace caisson::image {

// Packs the folder `upper_dir` of an overlay into the new file `path`.
Result<> PackLayer(const std::string& upper_dir, const std::string& path);
// Packs all that is in `folder` into the new file `path` (0600), which is on the disk when it returns.
Result<> PackFolder(const std::string& folder, const std::string& path);

// What of an archive can be believed: nothing of it is a path on this host.
struct CheckpointConfig {
  std::string image_ref;   // of the image below the writable layer, as the archive says it; to be looked up, never fetched
  std::string image_name;  // likewise
};

// Unpacks `archive`, packed in whatever way, into the new folder `folder`, and checks it: config.dump is what it should be,
// checkpoint/ holds plain files and nothing else. Errors: kInvalidArgument, kResourceExhausted, kNotFound for no archive.
Result<CheckpointConfig> UnpackCheckpoint(const std::string& archive, const std::string& folder);
// Unpacks the archive's writable layer, if it has one, into the empty `upper_dir` of an overlay over `lower_dirs`.
Result<> UnpackWritableLayer(const std::string& folder, const std::string& upper_dir, const std::vector<std::string>& lower_dirs);

}  // namespace caisson::image

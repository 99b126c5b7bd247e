// SPDX-License-Identifier: Apache-2.0
//
// Removes and measures trees that strangers filled, by descriptors, without following links.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "image/image_store.h"

namespace caisson::image {

// Removes `name` in the folder `parent_fd` with all below it. Absent: success.
Result<> RemoveAt(int parent_fd, const std::string& name);
// The same by path.
Result<> RemoveTree(const std::string& path);
// Bytes on disk (blocks) and inodes below and including `path`; a file with several links counts once for each.
Result<Usage> MeasureTree(const std::string& path);

}  // namespace caisson::image

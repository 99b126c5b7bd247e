// SPDX-License-Identifier: Apache-2.0
//
// Unpacks a layer's tar stream into a folder of its own, in overlay's terms: whiteouts become 0:0 devices, opaque marks
// an extended attribute (Documentation/filesystems/overlayfs.rst). The stream is hostile: every name is resolved below
// the folder by openat2(2) and used as a descriptor; sizes, entries and paths are bounded; what leads out is an error.
//
// Kept of a layer: names, contents, modes with setuid, numeric owners, times, links, devices (inside only), the extended
// attributes user.* and security.capability. Dropped: every other extended attribute, trusted.overlay.* and user.overlay.*
// first of all.
//
// A whiteout hides what is below, never what the layer has itself (image-spec layer.md), in whatever order they come.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson::image {

// Gives the next bytes of the tar stream, valid until the next call; empty at the end.
using TarSource = std::function<Result<std::string_view>()>;

// A hard link whose target is not in this layer: made later, as a copy of the lower layers' file.
struct LinkBelow {
  std::string path, target;
};

struct Unpacked {
  uint64_t bytes = 0, inodes = 0;
  std::vector<LinkBelow> links_below;
  // Folders that entries are in but no entry describes: they are to look as in the layers below. "" is the root.
  std::vector<std::string> folders_below;
};

// Unpacks into `root_fd`, an open empty folder. Errors name the entry: kInvalidArgument for what cannot be, kResourceExhausted
// for limits and a full disk, else what the source says. What was unpacked stays for the caller to remove.
Result<Unpacked> UnpackTar(int root_fd, const TarSource& source);

// Whether an extended attribute of a layer's file is kept.
bool IsKeptXattr(std::string_view name);

}  // namespace caisson::image

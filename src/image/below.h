// SPDX-License-Identifier: Apache-2.0
//
// What a layer takes from the layers below it, once these are unpacked: hard links to their files, and the looks of
// folders that it fills without describing them. Looks into the layers as overlay stacks them (whiteouts and opaque marks
// hide), by descriptors, through no link; opens regular files only. Pure functions over folders that nobody else changes.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "image/unpack.h"

namespace caisson::image {

// A descriptor of what `path` shows in the stack `dirs` (topmost first, absolute): O_PATH, but O_RDONLY of a folder.
// kNotFound when it shows nothing, also when that is because of something on the way that is no folder.
Result<UniqueFd> FindInLayers(const std::vector<std::string>& dirs, const std::string& path);

// The same through symbolic links, which stay inside, as does "..": what a path of a container with these layers shows.
Result<UniqueFd> ResolveInLayers(const std::vector<std::string>& dirs, const std::string& path);

// Does in the layer's folder `root_fd` what UnpackTar left to do, with `lower_dirs` (topmost first, absolute), and counts
// it in `unpacked`. A link's target becomes a copy, one for all links to it. kInvalidArgument for a link to nothing or
// to what cannot be copied, kResourceExhausted when the copies are too much for one layer.
Result<> CompleteFromBelow(int root_fd, Unpacked* unpacked, const std::vector<std::string>& lower_dirs);

// Whether the layer hides all that is below it. Overlay does not look at this mark of a layer's root.
bool IsOpaque(const std::string& layer_dir);

}  // namespace caisson::image

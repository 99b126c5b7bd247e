// SPDX-License-Identifier: Apache-2.0
//
// Mounting the root file system's layers. mount(2) takes one page of options, and an image may have more folders than
// fit: then they are named relative to a folder they share, and if that is not enough one by one (fsconfig(2),
// Linux 6.5).
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/mounts.h"

namespace caisson::oci {

// Mounts `plan` on its destination, a path of the caller's mount namespace. May change the working directory: child
// only. With `mapping`, a user namespace, the layers below an overlay (or what a bind mounts) are id-mapped first, each
// in its place, where the caller's mount namespace has it from then on; `mapped` gets those folders.
Result<> MountLayers(const MountPlan& plan, int mapping, std::vector<std::string>* mapped = nullptr);

// Mounts the layers of `plan`, of kind kImage, on the folder `at` for a moment, and returns a detached copy of that mount,
// or of the folder or file at its sub path, which no link leads out of. Nobody sees `at` covered but the caller's mount
// namespace. kNotFound names a sub path that the image does not have. `mapping`: as MountLayers; but afterwards the layers
// are in their place as they were, for the next that has one of them, mapped or not. May change the working directory:
// child only.
Result<UniqueFd> CloneImage(const MountPlan& plan, const std::string& at, int mapping);

// Overlay options with shorter names in lowerdir, right when the working directory is `folder`. Pure.
struct ShortOptions {
  std::string folder, data;
};
ShortOptions ShortenLowerDirs(const std::string& data);

}  // namespace caisson::oci

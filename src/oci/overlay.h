// SPDX-License-Identifier: Apache-2.0
//
// Mounting the root file system's layers. mount(2) takes one page of options, and an image may have more folders than
// fit: then they are named relative to a folder they share, and if that is not enough one by one (fsconfig(2),
// Linux 6.5).
#pragma once

#include <string>

#include "base/result.h"
#include "oci/mounts.h"

namespace caisson::oci {

// Mounts `plan` on its destination, a path of the caller's mount namespace. May change the working directory: child
// only.
Result<> MountLayers(const MountPlan& plan);

// Overlay options with shorter names in lowerdir, right when the working directory is `folder`. Pure.
struct ShortOptions {
  std::string folder, data;
};
ShortOptions ShortenLowerDirs(const std::string& data);

}  // namespace caisson::oci

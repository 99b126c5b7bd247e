// SPDX-License-Identifier: Apache-2.0
//
// The option "tmpcopyup" of a tmpfs (podman): it begins with what the image has in its place. Runs in the child, by
// descriptors, and follows no link.
#pragma once

#include "base/result.h"

namespace caisson::oci {

// Copies folders, regular files and links below `from` into the folder `to`, with owner and mode; nothing else, which no image
// has in such a place. Both are open for reading. Errors name the entry; what does not fit is ENOSPC of the tmpfs.
Result<> CopyUp(int from, int to);

}  // namespace caisson::oci

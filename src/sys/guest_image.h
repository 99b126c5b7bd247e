// SPDX-License-Identifier: Apache-2.0
//
// A guest's kernel and initramfs as tools/build-guest lays them down, and the manifest.json beside them, which it writes last: the
// version it was made for, and the size and SHA-256 of each file. A kernel or initramfs of somebody else's has no manifest, and is
// taken as it is.
#pragma once

#include <string>

#include "base/result.h"

namespace caisson::sys {

// Whether kernel and initramfs are whole and made for `version` as far as their sizes tell; for each pod, so they are not read.
// kFailedPrecondition naming the folder, and what to do.
Result<> CheckGuestImage(const std::string& kernel, const std::string& initrd, const std::string& version);
// The same, and their bytes are read: hundreds of milliseconds. Gives a line about the image, for people; empty: there is no manifest.
Result<std::string> VerifyGuestImage(const std::string& kernel, const std::string& initrd, const std::string& version);

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
//
// Files that are written whole or not at all. No state; any thread.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace caisson::sys {

// A file that was not there. `mode`: less the umask. A link in the file's place is not followed. Errors name the path; EEXIST.
// After an error nothing of it is there.
Result<> WriteNewFile(const std::string& path, std::string_view text, unsigned mode = 0600);

// A file, or another in its place: who opens `path` finds the old one whole or the new one whole. Not flushed to the disk. A
// link in its place is replaced. After an error the old one is there.
Result<> ReplaceFile(const std::string& path, std::string_view text, unsigned mode = 0600);

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
//
// A file that was not there, written whole. No state; any thread.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace caisson::sys {

// Readable and writable for its owner alone. A link in the file's place is not followed. Errors name the path; EEXIST.
// After an error a part of it may be there.
Result<> WriteNewFile(const std::string& path, std::string_view text);

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
//
// Opens and reads files safely: configuration, and what strangers put into a folder. Pure functions, any thread.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::image {

// The whole of a regular file of at most `max_bytes`. kNotFound if there is none.
Result<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

// Opens for reading the regular file `path` in `root_fd`, following links inside only. Anything else is refused without
// opening it: to open a device node that a stranger made may already do something to the host.
Result<UniqueFd> OpenRegularInRoot(int root_fd, const std::string& path);
// The same of an O_PATH descriptor.
Result<UniqueFd> ReopenRegular(int path_fd, const std::string& name);

}  // namespace caisson::image

// SPDX-License-Identifier: Apache-2.0
//
// Reads the small configuration files of this module. Pure functions, any thread.
#pragma once

#include <string>

#include "base/result.h"

namespace caisson::image {

// The whole of a regular file of at most `max_bytes`. kNotFound if there is none.
Result<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

}  // namespace caisson::image

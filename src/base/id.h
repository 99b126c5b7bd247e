// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace caisson {

// 64 lowercase hex digits of 32 random bytes (getrandom(2)): the id of a pod sandbox, container or exec.
std::string NewId();
// True for 1 to 128 characters of [A-Za-z0-9_.-] that are neither "." nor "..": safe as one path component.
bool IsSafeName(std::string_view name);

}  // namespace caisson

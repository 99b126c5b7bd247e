// SPDX-License-Identifier: Apache-2.0
//
// Paths inside a root that a stranger controls. Every resolution is by openat2(2) with RESOLVE_IN_ROOT (a link,
// absolute or with "..", stays inside) and without magic links; the result is a descriptor, so nothing can be swapped
// afterwards.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::sys {

// openat2 of `path` inside `root_fd` with O_CLOEXEC | `flags`. Errors name the path.
Result<UniqueFd> OpenInRoot(int root_fd, const std::string& path, int flags, mode_t mode = 0);
// The same, refusing every symbolic link on the way: for /proc and /sys, which an image may have made a link.
Result<UniqueFd> OpenInRootNoLinks(int root_fd, const std::string& path, int flags);

// An O_PATH descriptor of the folder `path` inside `root_fd`, making what is missing with `mode`.
Result<UniqueFd> MakeDirInRoot(int root_fd, const std::string& path, mode_t mode);
// An O_PATH descriptor of the file `path` inside `root_fd`, making it (empty) and missing folders.
Result<UniqueFd> MakeFileInRoot(int root_fd, const std::string& path, mode_t mode);

// "/proc/self/fd/N": the path that mount(2) and others take for an O_PATH descriptor.
std::string FdPath(int fd);
// The last component and what is before it: {"/a/b", "c"} of "/a/b/c", {"/", "c"} of "/c".
std::pair<std::string, std::string> SplitPath(const std::string& path);

// The whole content of a descriptor's file, up to `max_bytes`; more is kResourceExhausted.
Result<std::string> ReadAll(int fd, size_t max_bytes);
// The content of a file named by path.
Result<std::string> ReadFile(const std::string& path, size_t max_bytes);

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
//
// Compiled seccomp filters in a directory: one file each, named by the SHA-256 of what it was compiled from. A file is
// believed only if it is ours (owner, mode 0600, regular, in a directory that only we may write to) and its own hash is
// right; written whole to a temporary name and renamed, so readers see all of it or nothing. Losing it costs a compile.
#pragma once

#include <optional>
#include <string>

#include "oci/seccomp.h"

namespace caisson::oci {

// BPF_MAXINSNS instructions of eight bytes: what seccomp(2) takes.
inline constexpr size_t kMaxFilterBytes = 4096 * 8;

// 64 hex digits of everything that decides the filter: the spec without its flags, and `platform`.
std::string SeccompCacheKey(const SeccompSpec& spec, const std::string& platform);
std::optional<std::string> ReadSeccompCache(const std::string& dir, const std::string& key);
// Makes `dir` (0700) if its parent exists. Failures are silent: see above.
void WriteSeccompCache(const std::string& dir, const std::string& key, const std::string& bpf);

}  // namespace caisson::oci

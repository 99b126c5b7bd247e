// SPDX-License-Identifier: Apache-2.0
//
// What of a kubelet's emptyDir in memory (a tmpfs at …/volumes/kubernetes.io~empty-dir/<name>) a folder of the host's is: all of it, or a folder in it, which
// it is by whatever mount (volume-subpaths). A VM has such a volume in its own memory, and nothing of it is ever on the host. No state.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "caisson/guest/v1/guest.pb.h"
#include "sys/mountinfo.h"

namespace caisson::shim {

struct MemoryFolder {
  std::string volume;  // where the whole is mounted
  std::string below;   // "a/b"; empty: the whole
};

// `path`: a folder, absolute and without links, of the file system with this device number. Nothing: of no such volume. Pure.
std::optional<MemoryFolder> FindMemoryFolder(const std::string& path, uint32_t major, uint32_t minor, const std::vector<sys::MountInfo>& mounts);
// Looks at the host. Nothing also where it cannot be told.
std::optional<MemoryFolder> MemoryFolderAt(const std::string& source);
// What makes it in the guest, under `name` (guest_spec.h). Sizes, modes and owners are the host's.
Result<guest::v1::ShareMemoryRequest> ShareOf(const std::string& source, const std::string& name);

}  // namespace caisson::shim

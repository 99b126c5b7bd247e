// SPDX-License-Identifier: Apache-2.0
//
// Ranges of user and group ids as user_namespaces(7) maps them. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson::oci {

struct IdMapping {
  uint32_t container_id = 0, host_id = 0, size = 0;
  bool operator==(const IdMapping&) const = default;
};

struct IdMaps {
  std::vector<IdMapping> uids, gids;
  bool empty() const { return uids.empty() && gids.empty(); }
  bool operator==(const IdMaps&) const = default;
};

// kInvalidArgument naming `what` if the kernel would not take them: none, too many, a range that is empty, goes past the
// last id, or shares an id with another on either side.
Result<> CheckIdMappings(const std::vector<IdMapping>& mappings, std::string_view what);
// What id `container_id` is on the host; nothing if no range has it.
std::optional<uint32_t> ToHostId(const std::vector<IdMapping>& mappings, uint32_t container_id);
// As /proc/PID/uid_map takes them.
std::string FormatIdMappings(const std::vector<IdMapping>& mappings);
// "CONTAINER:HOST:SIZE,…", as containerd's snapshotters write them into mount options ("uidmap=").
Result<std::vector<IdMapping>> ParseIdMappings(std::string_view text);

}  // namespace caisson::oci

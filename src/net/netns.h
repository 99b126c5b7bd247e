// SPDX-License-Identifier: Apache-2.0
//
// Named network namespaces: bind mounts of /proc/thread-self/ns/net on files (network_namespaces(7)), as ip-netns(8)
// and other runtimes keep them. Made on a helper thread that unshares and ends; the caller's namespace never changes.
// Thread-safe. Whoever made a namespace removes it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace caisson::net {

// Makes a namespace at `path` (its folder is created, 0755) with its loopback interface up. A plain file that a crash
// left there is taken over; a namespace is kAlreadyExists. Errors: nothing is left behind.
Result<> CreateNetns(const std::string& path);
// The same for a namespace that is there: `source` is its path, `path` where it is kept from now on.
Result<> BindNetns(const std::string& source, const std::string& path);
// Unmounts and removes. Absent: success.
Result<> RemoveNetns(const std::string& path);
// True if `path` is a network namespace (NSFS_MAGIC and CLONE_NEWNET).
bool IsNetns(const std::string& path);
// Counters of one interface of the namespace, read from inside it.
struct InterfaceStats {
  std::string name;
  uint64_t rx_bytes = 0, rx_errors = 0, tx_bytes = 0, tx_errors = 0;
  uint64_t rx_packets = 0, rx_dropped = 0, tx_packets = 0, tx_dropped = 0;
};
// Of every interface but lo and a VM's tap, at most limits::kNetnsInterfaces, of each namespace; in the order of `netns_paths`. One helper
// thread goes through them all.
std::vector<Result<std::vector<InterfaceStats>>> ReadInterfaceStats(const std::vector<std::string>& netns_paths);

}  // namespace caisson::net

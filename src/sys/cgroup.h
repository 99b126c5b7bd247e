// SPDX-License-Identifier: Apache-2.0
//
// What cgroup hierarchies this host has and where a process is in them (cgroups(7)): cgroup v1 controllers in their
// hierarchies, possibly co-mounted, the named systemd hierarchy, and cgroup2 alone or beside them ("hybrid").
// Pure but for the two Read functions; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sys/mountinfo.h"

namespace caisson::sys {

struct CgroupMount {
  bool v2 = false;
  std::vector<std::string> controllers;  // v1: "cpu", "cpuacct", "name=systemd"; v2: empty (see cgroup.controllers)
  std::string mount_point;
  std::string root;  // the cgroup that is mounted there; "/" but in a container without a cgroup namespace
};

// A line of /proc/<pid>/cgroup.
struct CgroupMembership {
  int hierarchy = 0;  // 0: v2
  std::vector<std::string> controllers;
  std::string path;
};

enum class CgroupMode {
  kNone,    // nothing mounted
  kV1,      // only v1 hierarchies
  kHybrid,  // controllers on v1, a cgroup2 beside them
  kV2,      // only cgroup2
};

// Errors: kInvalidArgument with the number of the bad line.
Result<std::vector<CgroupMembership>> ParseCgroupMembership(std::string_view text);
// Errors: also kResourceExhausted for an absurdly large file.
Result<std::vector<CgroupMembership>> ReadCgroupMembership(const std::string& path = "/proc/self/cgroup");

// Each hierarchy once. Of several mounts of one hierarchy that whose root is "/" wins, then one below /sys/fs/cgroup.
std::vector<CgroupMount> CgroupMounts(const std::vector<MountInfo>& mounts);
// Of this process. A pure v2 host is recognised without reading the mount table.
Result<std::vector<CgroupMount>> ReadCgroupMounts();

// True where all controllers are on cgroup2, mounted on /sys/fs/cgroup. One system call.
bool IsPureV2();

CgroupMode ModeOf(const std::vector<CgroupMount>& mounts);

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
//
// The mount table of a process as proc_pid_mountinfo(5) writes it. Mount points and sources are chosen by whoever
// mounts, so the text is foreign: bounded, never trusted to be well formed. Pure but for ReadMountInfo; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson::sys {

struct MountInfo {
  int64_t id = 0, parent = 0;
  uint32_t major = 0, minor = 0;
  std::string root;         // path within the file system that is the mount's root
  std::string mount_point;  // unescaped
  std::string options;      // per mount: "rw,nosuid"
  std::vector<std::string> optional;  // "shared:12", "master:3", "unbindable"
  std::string fs_type, source, super_options;
};

// One line without its newline. Errors: kInvalidArgument.
Result<MountInfo> ParseMountInfoLine(std::string_view line);
// A whole table; an empty text is an empty table. Errors: kInvalidArgument with the number of the bad line.
Result<std::vector<MountInfo>> ParseMountInfo(std::string_view text);
// Reads and parses `path`. Errors: also kResourceExhausted when it is larger than limits::kMountInfoBytes.
Result<std::vector<MountInfo>> ReadMountInfo(const std::string& path = "/proc/self/mountinfo");

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
//
// Launch: a VMM's process, confined before its program begins, from a process of one thread. It has
// - only the descriptors it is given, as 3, 4, 5, …; /dev/null as 0, one for its messages as 1 and 2;
// - the user and groups it is given, no other group, no capabilities, no_new_privs;
// - no core files, a limit of descriptors, an empty environment, a session of its own;
// - its cgroups before its first instruction;
// - the end of this process as its own (PR_SET_PDEATHSIG, SIGKILL).
// Where this process is root also
// - a PID namespace, in which it is 1: it can name no other process;
// - a mount namespace in which nothing can be written and folders that hold no program are empty (kHidden in launch.cc);
// - on request a device, whoever that belongs to outside;
// - on request a network namespace that holds but a tap, which leads nowhere.
// The system call filter is the VMM's own affair.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::vmm {

struct LaunchSpec {
  std::string program;  // absolute
  std::vector<std::string> arguments;  // the first is its name
  std::vector<int> fds;                // the caller's
  int messages_fd = -1;                // its stdout and stderr; the caller's
  int lone_tap = -1;                   // the index in `fds`, with -1 in its place, of a tap that leads nowhere
  uint32_t uid = 0, gid = 0;           // 0: as we are
  std::vector<uint32_t> groups;        // supplementary; none but these
  std::string own_device;              // a character device whose place in the mount namespace a node of `uid`'s own takes; empty: none
  std::vector<std::string> cgroup_procs;
  bool huge_pages = true;  // false: no transparent ones (PR_SET_THP_DISABLE): a stack of a thread's takes what it uses, not 2 MiB
};

struct Launched {
  int pid = 0;
  UniqueFd pidfd;
};

// Returns once the program has begun, or with why it has not, in which case nothing is left.
Result<Launched> Launch(const LaunchSpec& spec, Deadline deadline);

// How a child ended, for people: "exited with status 1", "was killed by signal 9 (Killed)". Reaps it. Call it once it has
// ended, or SIGKILL has been sent to it: waits `millis` at most.
Result<std::string> ReapLaunched(const Launched& process, int64_t millis);

}  // namespace caisson::vmm

// SPDX-License-Identifier: Apache-2.0
//
// EarlyInit: what PID 1 of the guest does before anything else: file systems, modules, cgroups, a root of its own. The
// kernel runs us as /init of an initramfs, which is no root that pivot_root(2) could leave (ramfs-rootfs-initramfs.rst);
// so all that is needed moves onto a tmpfs. What is not needed for the agent's first word waits until it has been said
// (FinishInit): further modules, and emptying the initramfs, whose memory is the guest's.
//
// Called once each, EarlyInit by PID 1 before it has any thread or child.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::agent {

// The folder that all of the agent's own things are in.
inline constexpr char kRunDir[] = "/run/caisson";

inline constexpr char kShmDir[] = "/run/caisson/shm";          // the pod's /dev/shm
// The messenger's: sockets at which containers wait for their start.
inline constexpr char kGatesDir[] = "/run/caisson/gates";

// Where a container's bundle and writable layer are.
std::string ContainerDir(const std::string& id);

// Made when FinishInit is done.
inline constexpr char kSettledFile[] = "/run/caisson/settled";

// A machine that was started for debugging: its kernel's command line has kGuestDebugWord.
bool StartedForDebugging();
// Whether a command line has `word` as a word of its own. Pure.
bool HasWord(std::string_view command_line, std::string_view word);
// There if it was, and its image has programs (tools/build-guest --debug): with a link in /bin for each of its names.
inline constexpr char kDebugProgram[] = "/bin/busybox";

// The initramfs, which is no longer our root. Errors name the step; there is nothing to go on with.
Result<UniqueFd> EarlyInit();
// In a process of its own, which may be slow.
void FinishInit(UniqueFd initramfs);

}  // namespace caisson::agent

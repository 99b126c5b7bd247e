// SPDX-License-Identifier: Apache-2.0
//
// The actions `start` and `delete` of a shim, for clients other than caissond (shim_command.h). `start` answers with the address of the
// companion of the container's pod, started if there is none yet: a process of its own that outlives the client. `delete` ends and removes
// what a dead companion has left of one container.
#pragma once

#include "base/result.h"
#include "shim/shim_command.h"

namespace caisson::shim {

// Where the bundle's files say what `delete` has to know.
inline constexpr char kAddressFile[] = "address";    // "unix:///…" of the companion
inline constexpr char kShimPidFile[] = "shim.pid";   // the companion's
inline constexpr char kInitPidFile[] = "init.pid";   // the container's
inline constexpr char kExitFile[] = "exit";          // "<status> <nanoseconds since 1970>", when it has ended

// All print their answer on stdout, and nothing else there or on stderr if they succeed.
Result<> StartShim(const ShimCommand& command);
Result<> DeleteShim(const ShimCommand& command);
// The RuntimeInfo message.
Result<> PrintInfo(const ShimCommand& command);

// Writes a file of the bundle, anew.
Result<> WriteBundleFile(const std::string& bundle, const char* name, const std::string& text);

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
//
// What the daemon, a VM pod's companion and the guest's agent call things by (docs/vm.md).
#pragma once

namespace caisson {

// On the command line of a guest's kernel: processes may be run in the guest itself.
inline constexpr char kGuestDebugWord[] = "caisson.debug";
// The same: the machine's processors are emulated.
inline constexpr char kGuestEmulatedWord[] = "caisson.emulated";
// The container of a process that runs in the guest itself, where a container's id is asked for (caisson.guest.v1.Guest.OpenDebug makes it).
inline constexpr char kGuestDebugContainer[] = "debug";

}  // namespace caisson

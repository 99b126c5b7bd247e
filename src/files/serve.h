// SPDX-License-Identifier: Apache-2.0
//
// Serve: the process that serves folders of the host's to the guest of one pod: `containerd-shim-caisson-v2 serve-files`. Two
// sockets have been handed to it:
//
//   3, a stream, from the guest's FUSE client by way of the VMM: requests, and answers back (linux/fuse.h), nothing else;
//   4, SOCK_SEQPACKET, to the companion. First we say kReady. It sends volumes, VolumeMessage with the folder's descriptor beside
//      it. Our last words, if we get to say any, are a text.
//
// It ends with the companion, and when the guest says what is no request; not with the VMM, whose end is the companion's to tell.
#pragma once

#include <cstdint>

namespace caisson::files {

inline constexpr int kGuestSocket = 3, kStarterSocket = 4;
inline constexpr char kReady[] = "ready";

struct VolumeMessage {
  char name[128];  // zero-terminated
  uint32_t writable;
  uint32_t constant;  // SharedVolume::constant
  uint32_t removed;   // it is not shared any more; without a descriptor
};

// The process's exit status.
int Serve();

}  // namespace caisson::files

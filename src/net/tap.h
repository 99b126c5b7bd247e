// SPDX-License-Identifier: Apache-2.0
//
// A tap device (Documentation/networking/tuntap.rst) for a VMM: Ethernet frames, each with a virtio_net_hdr before it, are
// read from and written to its descriptor. It is of the network namespace that its opener's thread is in. It is not
// persistent: it goes with the last copy of its descriptor, so nobody has to remove it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::net {

// Names of taps that are a VM's begin with it; such an interface is none of the pod's own.
inline constexpr std::string_view kTapPrefix = "vmtap";

struct Tap {
  UniqueFd fd;  // non-blocking
  int index = 0;
  std::string name;
};

// Makes the tap kTapPrefix + `number` with that MTU and sets it up; the kernel gives it no address of its own.
// Errors: kAlreadyExists (EBUSY), no /dev/net/tun, or what the kernel says.
Result<Tap> OpenTap(unsigned number, uint32_t mtu);

// Takes it along into the network namespace `netns`, which the calling thread enters for good, and sets it up there as OpenTap does. Who has
// its descriptor open keeps it. Errors: kAlreadyExists if its name is taken there.
Result<> MoveTap(Tap* tap, int netns, uint32_t mtu);

}  // namespace caisson::net

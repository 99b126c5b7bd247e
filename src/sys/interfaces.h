// SPDX-License-Identifier: Apache-2.0
//
// What a network namespace has: its interfaces with their addresses, its routes and neighbours, as plain text. A VM pod's
// companion reads in the pod's namespace what CNI has made there, and the agent applies it in the guest: afterwards both
// look the same to `ip`. Both act on the calling thread's network namespace. No state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace caisson::sys {

struct NetworkInterface {
  std::string name;                    // "eth0"
  std::string mac;                     // "02:00:00:00:00:01"
  uint32_t mtu = 0;                    // when applied, 0: stays
  std::vector<std::string> addresses;  // "10.1.2.3/24", "fd00::3/64"
};

struct NetworkRoute {
  std::string destination;  // "0.0.0.0/0"
  std::string gateway;      // or empty; may be of the other family (RFC 5549)
  std::string device;
  std::string source;  // or empty
  uint32_t scope = 0;  // RT_SCOPE_*, rtnetlink(7)
  bool on_link = false;
  uint32_t metric = 0;
};

struct NetworkNeighbour {
  std::string address, mac, device;
};

struct NetworkSetup {
  std::vector<NetworkInterface> interfaces;
  std::vector<NetworkRoute> routes;
  std::vector<NetworkNeighbour> neighbours;
};

// Every Ethernet interface that is up or has an address, the main table's unicast routes through them, and permanent
// neighbours; to be read before a tap is there. What the guest's kernel makes by itself of the same cable is left out:
// loopback, link-local addresses of the interface's own making, what router advertisements have brought. Errors:
// kUnimplemented names what could not be passed on (a tunnel's address, a route with several next hops);
// kResourceExhausted beyond limits::kNetnsInterfaces or limits::kNetnsRoutes.
Result<NetworkSetup> ReadNetwork();

// Makes it so. An interface is the link of that MAC, else the only Ethernet link that is no other's; it gets the name,
// MAC, MTU and addresses and is set up, as is loopback. Routes come in an order that works. Idempotent. Text that is no
// address is kInvalidArgument. A failure leaves what was done before it.
Result<> ApplyNetwork(const NetworkSetup& setup);

// "02:00:00:00:00:01" of the six raw bytes, and back.
std::string FormatMac(std::string_view raw);
Result<std::string> ParseMac(std::string_view text);

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
//
// The little of rtnetlink(7) that Caisson needs. A NetlinkMessage is one request with its attributes; a RouteSocket is
// a NETLINK_ROUTE socket of the network namespace that its opener was in, and stays there when the thread moves on.
// The kernel answers within sendmsg(2), so no call waits on anything else. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

struct nlmsghdr;

namespace caisson::sys {

class NetlinkMessage {
 public:
  // `type`: RTM_NEWLINK, …; `flags`: NLM_F_REQUEST is added.
  NetlinkMessage(uint16_t type, uint16_t flags);

  // The fixed part after the header (ifinfomsg, ifaddrmsg, tcmsg, …); once, before any attribute.
  template <class T>
  NetlinkMessage& Body(const T& body) {
    return Append(&body, sizeof body);
  }
  NetlinkMessage& Attribute(uint16_t type, std::string_view bytes);
  NetlinkMessage& AttributeU32(uint16_t type, uint32_t value);
  // With the terminating zero that names need.
  NetlinkMessage& AttributeName(uint16_t type, const std::string& name);
  // Attributes between Begin and End are nested in one of `type`. Returns what End takes.
  size_t Begin(uint16_t type);
  NetlinkMessage& End(size_t begun);

  // The message with its length and `sequence` filled in.
  std::string_view Finish(uint32_t sequence);

 private:
  NetlinkMessage& Append(const void* data, size_t size);
  std::string buffer_;
};

// Attributes of a message of the kernel: calls `each` for every whole one. Stops at a malformed length.
void ForEachAttribute(std::string_view attributes, const std::function<void(uint16_t type, std::string_view)>& each);

struct Link {
  int index = 0;
  std::string name;
  uint16_t type = 0;   // ARPHRD_ETHER, …
  unsigned flags = 0;  // IFF_UP, …
  int mtu = 0;
  std::string mac;  // raw bytes
  uint64_t rx_bytes = 0, rx_errors = 0, rx_packets = 0, rx_dropped = 0;
  uint64_t tx_bytes = 0, tx_errors = 0, tx_packets = 0, tx_dropped = 0;
};

class RouteSocket {
 public:
  // A socket of the calling thread's network namespace.
  static Result<RouteSocket> Open();

  // Sends and waits for the acknowledgement. Errors: what the kernel answered, within `what`.
  Result<> Execute(NetlinkMessage& message, std::string_view what);
  // Sends a dump request (NLM_F_DUMP is the caller's) and calls `each` with every message's payload until the end.
  // `each` answers false to hear no more.
  Result<> Dump(NetlinkMessage& message, std::string_view what,
                const std::function<bool(uint16_t type, std::string_view payload)>& each);

  // All links, at most `limit`; a namespace may hold what its owner likes.
  Result<std::vector<Link>> Links(size_t limit);
  Result<> SetUp(int index);

 private:
  explicit RouteSocket(UniqueFd fd) : fd_(std::move(fd)) {}
  Result<> Send(NetlinkMessage& message, std::string_view what);
  UniqueFd fd_;
  uint32_t sequence_ = 0;
};

}  // namespace caisson::sys

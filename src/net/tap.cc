// SPDX-License-Identifier: Apache-2.0
#include "net/tap.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

#include "sys/netlink.h"

namespace caisson::net {
namespace {

constexpr char kTunDevice[] = "/dev/net/tun";
// Without it the kernel gives the tap a link-local address and sends frames of its own to the guest.
constexpr char kNoAddresses = IN6_ADDR_GEN_MODE_NONE;

Result<> SetMtu(sys::RouteSocket* socket, const Tap& tap, uint32_t mtu) {
  ifinfomsg info = {};
  info.ifi_index = tap.index;
  sys::NetlinkMessage message(RTM_NEWLINK, 0);
  message.Body(info).AttributeU32(IFLA_MTU, mtu);
  return socket->Execute(message, fmt::format("give '{}' an MTU of {}", tap.name, mtu));
}

Result<> KeepQuiet(sys::RouteSocket* socket, const Tap& tap) {
  ifinfomsg info = {};
  info.ifi_index = tap.index;
  sys::NetlinkMessage message(RTM_NEWLINK, 0);
  message.Body(info);
  size_t spec = message.Begin(IFLA_AF_SPEC);
  size_t inet6 = message.Begin(AF_INET6);
  message.Attribute(IFLA_INET6_ADDR_GEN_MODE, {&kNoAddresses, 1}).End(inet6).End(spec);
  auto quiet = socket->Execute(message, fmt::format("let '{}' have no IPv6 address", tap.name));
  if (quiet) return quiet;
  // A kernel without IPv6, or a namespace where it is off, makes none anyway.
  int error = quiet.error().sys_errno;
  if (error == EAFNOSUPPORT || error == EOPNOTSUPP || error == EINVAL) return {};
  return quiet;
}

Result<> FindIndex(Tap* tap) {
  ifreq request = {};
  memcpy(request.ifr_name, tap->name.c_str(), tap->name.size() + 1);
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket || ioctl(socket.get(), SIOCGIFINDEX, &request) != 0) return ErrnoError("index of tap '{}'", tap->name);
  tap->index = request.ifr_ifindex;
  return {};
}

// In the calling thread's namespace.
Result<> SetUp(const Tap& tap, uint32_t mtu) {
  sys::RouteSocket socket = TRY(sys::RouteSocket::Open());
  TRY(SetMtu(&socket, tap, mtu));
  TRY(KeepQuiet(&socket, tap));
  return socket.SetUp(tap.index);
}

}  // namespace

Result<Tap> OpenTap(unsigned number, uint32_t mtu) {
  Tap tap;
  tap.name = fmt::format("{}{}", kTapPrefix, number);
  if (tap.name.size() >= IFNAMSIZ) return MakeError(Code::kInvalidArgument, "'{}' is too long for an interface", tap.name);
  tap.fd.Reset(open(kTunDevice, O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!tap.fd) return ErrnoError("open '{}'", kTunDevice);
  ifreq request = {};
  memcpy(request.ifr_name, tap.name.c_str(), tap.name.size() + 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (ioctl(tap.fd.get(), TUNSETIFF, &request) != 0) {
    if (errno == EBUSY) return MakeError(Code::kAlreadyExists, "tap '{}' is in use", tap.name);
    return ErrnoError("make tap '{}'", tap.name);
  }
  TRY(FindIndex(&tap));
  TRY(SetUp(tap, mtu));
  return tap;
}

Result<> MoveTap(Tap* tap, int netns, uint32_t mtu) {
  sys::RouteSocket from = TRY(sys::RouteSocket::Open());
  ifinfomsg info = {};
  info.ifi_index = tap->index;
  sys::NetlinkMessage message(RTM_NEWLINK, 0);
  message.Body(info).AttributeU32(IFLA_NET_NS_FD, static_cast<uint32_t>(netns));
  auto moved = from.Execute(message, fmt::format("move '{}' to another network namespace", tap->name));
  if (!moved) return moved;
  if (setns(netns, CLONE_NEWNET) != 0) return ErrnoError("enter the network namespace of '{}'", tap->name);
  // The kernel has closed it on the way, and numbers it anew where its number is taken.
  TRY(FindIndex(tap));
  return SetUp(*tap, mtu);
}

}  // namespace caisson::net

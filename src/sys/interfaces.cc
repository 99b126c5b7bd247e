// SPDX-License-Identifier: Apache-2.0
#include "sys/interfaces.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "sys/netlink.h"

namespace caisson::sys {
namespace {

constexpr size_t kMacBytes = 6;

// An address in its raw bytes, and its prefix where it has one.
struct Ip {
  uint8_t family = AF_UNSPEC;
  std::string bytes;
  uint8_t prefix = 0;
};

size_t SizeOf(int family) { return family == AF_INET ? 4 : 16; }
bool IsIp(int family) { return family == AF_INET || family == AF_INET6; }

template <class T>
bool ReadBody(std::string_view payload, T* body, std::string_view* attributes) {
  if (payload.size() < sizeof *body) return false;
  memcpy(body, payload.data(), sizeof *body);
  *attributes = payload.substr(std::min<size_t>(NLMSG_ALIGN(sizeof *body), payload.size()));
  return true;
}

uint32_t Number(std::string_view bytes) {
  uint32_t number = 0;
  if (bytes.size() == sizeof number) memcpy(&number, bytes.data(), sizeof number);
  return number;
}

std::string Text(int family, std::string_view bytes) {
  char text[INET6_ADDRSTRLEN] = {};
  if (bytes.size() != SizeOf(family) || inet_ntop(family, bytes.data(), text, sizeof text) == nullptr) return {};
  return text;
}

Result<Ip> ParseIp(const std::string& text) {
  char bytes[16];
  for (int family : {AF_INET, AF_INET6}) {
    if (inet_pton(family, text.c_str(), bytes) != 1) continue;
    return Ip{static_cast<uint8_t>(family), std::string(bytes, SizeOf(family)), static_cast<uint8_t>(SizeOf(family) * 8)};
  }
  return MakeError(Code::kInvalidArgument, "'{}' is no IP address", text);
}

Result<Ip> ParsePrefix(const std::string& text) {
  size_t slash = text.find('/');
  if (slash == std::string::npos) return MakeError(Code::kInvalidArgument, "'{}' is no IP address with a prefix", text);
  Ip ip = TRY(ParseIp(text.substr(0, slash)));
  auto prefix = ParseUint64(std::string_view(text).substr(slash + 1));
  if (!prefix || *prefix > ip.prefix) return MakeError(Code::kInvalidArgument, "'{}': no such prefix", text);
  ip.prefix = static_cast<uint8_t>(*prefix);
  return ip;
}

bool IsLinkLocal(int family, std::string_view bytes) {
  return family == AF_INET6 && bytes.size() == 16 && static_cast<uint8_t>(bytes[0]) == 0xfe &&
         (static_cast<uint8_t>(bytes[1]) & 0xc0) == 0x80;
}

// RFC 4291 appendix A: the interface identifier that a kernel makes of a MAC.
bool IsOfMac(std::string_view address, const std::string& mac) {
  if (mac.size() != kMacBytes) return false;
  std::string id = {static_cast<char>(mac[0] ^ 2), mac[1], mac[2], '\xff', '\xfe', mac[3], mac[4], mac[5]};
  return address.substr(8) == id;
}

// dev_valid_name() of the kernel; a name also becomes part of a path in /proc/sys.
Result<> CheckInterfaceName(const std::string& name) {
  bool good = !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
              std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c != '/' && c != ':' && c != 0x7f; });
  if (!good) return MakeError(Code::kInvalidArgument, "'{}' is no name of a network interface", name);
  return {};
}

class Reader {
 public:
  explicit Reader(RouteSocket socket) : socket_(std::move(socket)) {}
  Result<NetworkSetup> Read();

 private:
  struct Seen {
    Link link;
    std::vector<std::string> addresses;
  };
  Result<> ReadAddresses();
  Result<> TakeInterfaces();
  void SeeAddress(std::string_view payload);
  void SeeRoute(std::string_view payload);
  void SeeNeighbour(std::string_view payload);
  // `each` for every message of type `wanted` in the dump; what it finds wrong is the error.
  template <class Body>
  Result<> DumpEach(uint16_t request, uint16_t wanted, std::string_view what, void (Reader::*each)(std::string_view));

  RouteSocket socket_;
  std::map<int, Seen> seen_;
  std::map<uint32_t, std::string> taken_;  // index to name
  NetworkSetup setup_;
  Result<> bad_;
};

template <class Body>
Result<> Reader::DumpEach(uint16_t request, uint16_t wanted, std::string_view what,
                          void (Reader::*each)(std::string_view)) {
  NetlinkMessage message(request, NLM_F_DUMP);
  message.Body(Body{});
  size_t count = 0;
  TRY(socket_.Dump(message, what, [&](uint16_t type, std::string_view payload) {
    if (type == wanted && ++count <= limits::kNetnsRoutes) (this->*each)(payload);
    return count <= limits::kNetnsRoutes && bad_.has_value();
  }));
  if (count > limits::kNetnsRoutes) {
    return MakeError(Code::kResourceExhausted, "{}: more than {}", what, limits::kNetnsRoutes);
  }
  return bad_;
}

void Reader::SeeAddress(std::string_view payload) {
  ifaddrmsg info;
  std::string_view attributes;
  if (!ReadBody(payload, &info, &attributes) || !IsIp(info.ifa_family)) return;
  auto owner = seen_.find(static_cast<int>(info.ifa_index));
  if (owner == seen_.end()) return;
  std::string_view address, local;
  uint32_t flags = info.ifa_flags;
  ForEachAttribute(attributes, [&](uint16_t type, std::string_view value) {
    if (type == IFA_ADDRESS) address = value;
    if (type == IFA_LOCAL) local = value;
    if (type == IFA_FLAGS) flags = Number(value);
  });
  // Of a point to point link IFA_ADDRESS is the other end; IPv6 without a peer has no IFA_LOCAL.
  if (local.empty()) local = address;
  if (local.size() != SizeOf(info.ifa_family) || (flags & IFA_F_PERMANENT) == 0) return;
  if (IsLinkLocal(info.ifa_family, local) && IsOfMac(local, owner->second.link.mac)) return;
  owner->second.addresses.push_back(fmt::format("{}/{}", Text(info.ifa_family, local), info.ifa_prefixlen));
}

Result<> Reader::TakeInterfaces() {
  for (auto& [index, seen] : seen_) {
    bool ethernet = seen.link.type == ARPHRD_ETHER && seen.link.mac.size() == kMacBytes;
    if (seen.addresses.empty() && (!ethernet || (seen.link.flags & IFF_UP) == 0)) continue;
    if (!ethernet) {
      return MakeError(Code::kUnimplemented, "'{}' has addresses but is no Ethernet interface, so a VM cannot take it over",
                       seen.link.name);
    }
    taken_[static_cast<uint32_t>(index)] = seen.link.name;
    setup_.interfaces.push_back(
        {seen.link.name, FormatMac(seen.link.mac), static_cast<uint32_t>(seen.link.mtu), std::move(seen.addresses)});
  }
  return {};
}

void Reader::SeeRoute(std::string_view payload) {
  rtmsg info;
  std::string_view attributes;
  if (!ReadBody(payload, &info, &attributes) || !IsIp(info.rtm_family)) return;
  uint32_t table = info.rtm_table, device = 0;
  NetworkRoute route;
  std::string destination;
  bool several = false;
  ForEachAttribute(attributes, [&](uint16_t type, std::string_view value) {
    if (type == RTA_TABLE) table = Number(value);
    if (type == RTA_OIF) device = Number(value);
    if (type == RTA_PRIORITY) route.metric = Number(value);
    if (type == RTA_DST) destination = value;
    if (type == RTA_GATEWAY) route.gateway = Text(info.rtm_family, value);
    if (type == RTA_PREFSRC) route.source = Text(info.rtm_family, value);
    if (type == RTA_MULTIPATH) several = true;
    if (type == RTA_VIA && value.size() > sizeof(uint16_t)) {
      uint16_t family;
      memcpy(&family, value.data(), sizeof family);
      if (IsIp(family)) route.gateway = Text(family, value.substr(sizeof family));
    }
  });
  if (table != RT_TABLE_MAIN || info.rtm_type != RTN_UNICAST || (info.rtm_flags & RTM_F_CLONED) != 0) return;
  if (info.rtm_protocol == RTPROT_RA || info.rtm_protocol == RTPROT_REDIRECT) return;
  if (info.rtm_protocol == RTPROT_KERNEL && IsLinkLocal(info.rtm_family, destination)) return;
  if (destination.empty()) destination.assign(SizeOf(info.rtm_family), '\0');
  route.destination = fmt::format("{}/{}", Text(info.rtm_family, destination), info.rtm_dst_len);
  if (several) {
    bad_ = MakeError(Code::kUnimplemented, "the route to {} has several next hops, which a VM cannot take over",
                     route.destination);
    return;
  }
  auto owner = taken_.find(device);
  if (owner == taken_.end()) return;
  route.device = owner->second;
  route.scope = info.rtm_scope;
  route.on_link = (info.rtm_flags & RTNH_F_ONLINK) != 0;
  setup_.routes.push_back(std::move(route));
}

void Reader::SeeNeighbour(std::string_view payload) {
  ndmsg info;
  std::string_view attributes;
  if (!ReadBody(payload, &info, &attributes) || !IsIp(info.ndm_family)) return;
  auto owner = taken_.find(static_cast<uint32_t>(info.ndm_ifindex));
  if (owner == taken_.end() || (info.ndm_state & NUD_PERMANENT) == 0 || (info.ndm_flags & NTF_PROXY) != 0) return;
  std::string_view address, mac;
  ForEachAttribute(attributes, [&](uint16_t type, std::string_view value) {
    if (type == NDA_DST) address = value;
    if (type == NDA_LLADDR) mac = value;
  });
  std::string text = Text(info.ndm_family, address);
  if (text.empty() || mac.size() != kMacBytes) return;
  setup_.neighbours.push_back({text, FormatMac(mac), owner->second});
}

Result<NetworkSetup> Reader::Read() {
  std::vector<Link> links = TRY(socket_.Links(limits::kNetnsInterfaces + 1));
  if (links.size() > limits::kNetnsInterfaces) {
    return MakeError(Code::kResourceExhausted, "more than {} network interfaces", limits::kNetnsInterfaces);
  }
  for (Link& link : links) {
    if ((link.flags & IFF_LOOPBACK) == 0) seen_[link.index].link = std::move(link);
  }
  TRY(DumpEach<ifaddrmsg>(RTM_GETADDR, RTM_NEWADDR, "list addresses", &Reader::SeeAddress));
  TRY(TakeInterfaces());
  TRY(DumpEach<rtmsg>(RTM_GETROUTE, RTM_NEWROUTE, "list routes", &Reader::SeeRoute));
  TRY(DumpEach<ndmsg>(RTM_GETNEIGH, RTM_NEWNEIGH, "list neighbours", &Reader::SeeNeighbour));
  return std::move(setup_);
}

class Applier {
 public:
  explicit Applier(RouteSocket socket) : socket_(std::move(socket)) {}
  Result<> Apply(const NetworkSetup& setup);

 private:
  Result<std::vector<Link>> FindLinks(const std::vector<NetworkInterface>& interfaces);
  Result<> FreeName(const std::string& name, int but);
  Result<> ApplyInterface(const NetworkInterface& interface, const Link& link);
  Result<> AddAddress(int index, const NetworkInterface& interface, const std::string& address);
  Result<> AddRoute(const NetworkRoute& route);
  Result<> AddNeighbour(const NetworkNeighbour& neighbour);
  Result<int> IndexOf(const std::string& device);

  RouteSocket socket_;
  std::map<std::string, int> devices_;
};

// The link of each interface, in their order.
Result<std::vector<Link>> Applier::FindLinks(const std::vector<NetworkInterface>& interfaces) {
  std::vector<Link> links = TRY(socket_.Links(limits::kNetnsInterfaces));
  std::erase_if(links, [](const Link& link) { return link.type != ARPHRD_ETHER || (link.flags & IFF_LOOPBACK) != 0; });
  std::vector<Link> found(interfaces.size());
  for (size_t i = 0; i < interfaces.size(); ++i) {
    std::string mac = TRY(ParseMac(interfaces[i].mac));
    auto link = std::find_if(links.begin(), links.end(), [&](const Link& one) { return one.mac == mac; });
    if (link == links.end()) continue;
    found[i] = *link;
    links.erase(link);
  }
  for (size_t i = 0; i < interfaces.size(); ++i) {
    if (found[i].index != 0) continue;
    if (links.size() != 1) {
      return MakeError(Code::kNotFound, "no network device for '{}': none has the MAC {}, and {} others are there",
                       interfaces[i].name, interfaces[i].mac, links.size());
    }
    found[i] = links.front();
    links.clear();
  }
  return found;
}

// Another link that has the name gets one that nobody wants.
Result<> Applier::FreeName(const std::string& name, int but) {
  std::vector<Link> links = TRY(socket_.Links(limits::kNetnsInterfaces));
  for (const Link& link : links) {
    if (link.name != name || link.index == but) continue;
    ifinfomsg down = {};
    down.ifi_index = link.index;
    down.ifi_change = IFF_UP;  // a link that is up keeps its name
    NetlinkMessage stop(RTM_NEWLINK, 0);
    TRY(socket_.Execute(stop.Body(down), fmt::format("set '{}' down", name)));
    ifinfomsg info = {};
    info.ifi_index = link.index;
    NetlinkMessage rename(RTM_NEWLINK, 0);
    rename.Body(info).AttributeName(IFLA_IFNAME, fmt::format("was{}", link.index));
    TRY(socket_.Execute(rename, fmt::format("rename '{}'", name)));
  }
  return {};
}

Result<> Applier::ApplyInterface(const NetworkInterface& interface, const Link& link) {
  TRY(CheckInterfaceName(interface.name));
  TRY(FreeName(interface.name, link.index));
  std::string mac = TRY(ParseMac(interface.mac));
  if (link.mac != mac || link.name != interface.name) {
    ifinfomsg down = {};
    down.ifi_index = link.index;
    down.ifi_change = IFF_UP;
    NetlinkMessage stop(RTM_NEWLINK, 0);
    TRY(socket_.Execute(stop.Body(down), fmt::format("set '{}' down", link.name)));
  }
  ifinfomsg info = {};
  info.ifi_index = link.index;
  NetlinkMessage change(RTM_NEWLINK, 0);
  change.Body(info);
  // Before Linux 6.2 a link that is up is not even renamed to what it is called already.
  if (link.name != interface.name) change.AttributeName(IFLA_IFNAME, interface.name);
  if (link.mac != mac) change.Attribute(IFLA_ADDRESS, mac);
  if (interface.mtu != 0) change.AttributeU32(IFLA_MTU, interface.mtu);
  TRY(socket_.Execute(change, fmt::format("make link '{}' '{}' with MAC {} and MTU {}", link.name, interface.name,
                                          interface.mac, interface.mtu)));
  TRY(socket_.SetUp(link.index));
  for (const std::string& address : interface.addresses) TRY(AddAddress(link.index, interface, address));
  devices_[interface.name] = link.index;
  return {};
}

Result<> Applier::AddAddress(int index, const NetworkInterface& interface, const std::string& address) {
  Ip ip = TRY(ParsePrefix(address));
  ifaddrmsg info = {};
  info.ifa_family = ip.family;
  info.ifa_prefixlen = ip.prefix;
  info.ifa_index = static_cast<uint32_t>(index);
  // The routes are said one by one, so the kernel must not add its own. IPv6 has been checked for doubles by CNI already.
  uint32_t flags = IFA_F_PERMANENT | IFA_F_NOPREFIXROUTE | (ip.family == AF_INET6 ? IFA_F_NODAD : 0u);
  NetlinkMessage message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
  message.Body(info).Attribute(IFA_LOCAL, ip.bytes).Attribute(IFA_ADDRESS, ip.bytes).AttributeU32(IFA_FLAGS, flags);
  if (ip.family == AF_INET && ip.prefix < 31) {
    uint32_t broadcast = Number(ip.bytes) | htonl(UINT32_MAX >> ip.prefix);
    if (ip.prefix == 0) broadcast = UINT32_MAX;
    message.AttributeU32(IFA_BROADCAST, broadcast);
  }
  if (ip.family == AF_INET6) {
    // As CNI's plugins do: the default of a namespace may be off, and then adding fails.
    std::string path = fmt::format("/proc/sys/net/ipv6/conf/{}/disable_ipv6", interface.name);
    UniqueFd sysctl(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (sysctl && write(sysctl.get(), "0", 1) != 1) return ErrnoError("write '{}'", path);
  }
  return socket_.Execute(message, fmt::format("give '{}' the address {}", interface.name, address));
}

Result<int> Applier::IndexOf(const std::string& device) {
  auto found = devices_.find(device);
  if (found == devices_.end()) return MakeError(Code::kInvalidArgument, "'{}' is none of the interfaces", device);
  return found->second;
}

Result<> Applier::AddRoute(const NetworkRoute& route) {
  Ip destination = TRY(ParsePrefix(route.destination));
  int index = TRY(IndexOf(route.device));
  if (route.scope > RT_SCOPE_NOWHERE) return MakeError(Code::kInvalidArgument, "no route has scope {}", route.scope);
  rtmsg info = {};
  info.rtm_family = destination.family;
  info.rtm_dst_len = destination.prefix;
  info.rtm_table = RT_TABLE_MAIN;
  info.rtm_protocol = RTPROT_BOOT;
  info.rtm_scope = static_cast<uint8_t>(route.scope);
  info.rtm_type = RTN_UNICAST;
  info.rtm_flags = route.on_link ? RTNH_F_ONLINK : 0;
  NetlinkMessage message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
  message.Body(info).AttributeU32(RTA_OIF, static_cast<uint32_t>(index));
  if (destination.prefix != 0) message.Attribute(RTA_DST, destination.bytes);
  if (route.metric != 0) message.AttributeU32(RTA_PRIORITY, route.metric);
  if (!route.source.empty()) {
    Ip source = TRY(ParseIp(route.source));
    message.Attribute(RTA_PREFSRC, source.bytes);
  }
  if (!route.gateway.empty()) {
    Ip gateway = TRY(ParseIp(route.gateway));
    uint16_t family = gateway.family;
    if (gateway.family == destination.family) {
      message.Attribute(RTA_GATEWAY, gateway.bytes);
    } else {
      message.Attribute(RTA_VIA, std::string(reinterpret_cast<char*>(&family), sizeof family) + gateway.bytes);
    }
  }
  return socket_.Execute(message, fmt::format("add the route to {} through '{}' by '{}'", route.destination, route.gateway,
                                              route.device));
}

Result<> Applier::AddNeighbour(const NetworkNeighbour& neighbour) {
  Ip ip = TRY(ParseIp(neighbour.address));
  std::string mac = TRY(ParseMac(neighbour.mac));
  ndmsg info = {};
  info.ndm_family = ip.family;
  info.ndm_ifindex = TRY(IndexOf(neighbour.device));
  info.ndm_state = NUD_PERMANENT;
  NetlinkMessage message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
  message.Body(info).Attribute(NDA_DST, ip.bytes).Attribute(NDA_LLADDR, mac);
  return socket_.Execute(message, fmt::format("add the neighbour {} to '{}'", neighbour.address, neighbour.device));
}

Result<> Applier::Apply(const NetworkSetup& setup) {
  TRY(socket_.SetUp(1));  // loopback is the first of every namespace
  std::vector<Link> links = TRY(FindLinks(setup.interfaces));
  for (size_t i = 0; i < links.size(); ++i) TRY(ApplyInterface(setup.interfaces[i], links[i]));
  // A gateway must be reachable when it is named: by a route without one.
  for (bool with_gateway : {false, true}) {
    for (const NetworkRoute& route : setup.routes) {
      if (route.gateway.empty() != with_gateway) TRY(AddRoute(route));
    }
  }
  for (const NetworkNeighbour& neighbour : setup.neighbours) TRY(AddNeighbour(neighbour));
  return {};
}

}  // namespace

std::string FormatMac(std::string_view raw) {
  std::string text;
  for (char byte : raw) text += fmt::format("{}{:02x}", text.empty() ? "" : ":", static_cast<uint8_t>(byte));
  return text;
}

Result<std::string> ParseMac(std::string_view text) {
  auto digit = [](char c) {
    size_t at = std::string_view("0123456789abcdef").find(static_cast<char>(c >= 'A' && c <= 'F' ? c | 0x20 : c));
    return at == std::string_view::npos ? -1 : static_cast<int>(at);
  };
  std::string raw;
  std::vector<std::string_view> bytes = Split(text, ':');
  for (std::string_view byte : bytes) {
    if (bytes.size() != kMacBytes || byte.size() != 2 || digit(byte[0]) < 0 || digit(byte[1]) < 0) {
      return MakeError(Code::kInvalidArgument, "'{}' is no MAC address", text);
    }
    raw += static_cast<char>(digit(byte[0]) << 4 | digit(byte[1]));
  }
  return raw;
}

Result<NetworkSetup> ReadNetwork() { return Reader(TRY(RouteSocket::Open())).Read(); }

Result<> ApplyNetwork(const NetworkSetup& setup) { return Applier(TRY(RouteSocket::Open())).Apply(setup); }

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
#include "sys/netlink.h"

#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace caisson::sys {
namespace {

constexpr size_t kReceiveBytes = 64 << 10;  // the kernel fills at most 32 KiB of one dump message
constexpr timeval kReceiveTimeout = {10, 0};

std::string_view BytesOf(const void* data, size_t size) { return {static_cast<const char*>(data), size}; }

template <class T>
bool ReadAs(std::string_view bytes, T* value) {
  if (bytes.size() < sizeof *value) return false;
  memcpy(value, bytes.data(), sizeof *value);
  return true;
}

void ReadStats(std::string_view bytes, Link* link) {
  rtnl_link_stats64 stats = {};
  // Newer kernels append fields, older ones lack the last.
  memcpy(&stats, bytes.data(), std::min(bytes.size(), sizeof stats));
  link->rx_bytes = stats.rx_bytes;
  link->rx_errors = stats.rx_errors;
  link->rx_packets = stats.rx_packets;
  link->rx_dropped = stats.rx_dropped;
  link->tx_bytes = stats.tx_bytes;
  link->tx_errors = stats.tx_errors;
  link->tx_packets = stats.tx_packets;
  link->tx_dropped = stats.tx_dropped;
}

Link ReadLink(const ifinfomsg& info, std::string_view attributes) {
  Link link;
  link.index = info.ifi_index;
  link.type = info.ifi_type;
  link.flags = info.ifi_flags;
  ForEachAttribute(attributes, [&](uint16_t type, std::string_view value) {
    uint32_t number = 0;
    if (type == IFLA_IFNAME) link.name = value.substr(0, value.find('\0'));
    if (type == IFLA_ADDRESS) link.mac = value;
    if (type == IFLA_MTU && ReadAs(value, &number)) link.mtu = static_cast<int>(number);
    if (type == IFLA_STATS64) ReadStats(value, &link);
  });
  return link;
}

}  // namespace

NetlinkMessage::NetlinkMessage(uint16_t type, uint16_t flags) {
  nlmsghdr header = {};
  header.nlmsg_type = type;
  header.nlmsg_flags = flags | NLM_F_REQUEST;
  Append(&header, sizeof header);
}

NetlinkMessage& NetlinkMessage::Append(const void* data, size_t size) {
  buffer_.append(static_cast<const char*>(data), size);
  buffer_.resize(NLMSG_ALIGN(buffer_.size()), '\0');
  return *this;
}

NetlinkMessage& NetlinkMessage::Attribute(uint16_t type, std::string_view bytes) {
  CHECK(bytes.size() + RTA_LENGTH(0) <= UINT16_MAX);
  rtattr header = {};
  header.rta_type = type;
  header.rta_len = static_cast<uint16_t>(RTA_LENGTH(bytes.size()));
  Append(&header, sizeof header);
  return Append(bytes.data(), bytes.size());
}

NetlinkMessage& NetlinkMessage::AttributeU32(uint16_t type, uint32_t value) {
  return Attribute(type, BytesOf(&value, sizeof value));
}

NetlinkMessage& NetlinkMessage::AttributeName(uint16_t type, const std::string& name) {
  return Attribute(type, BytesOf(name.c_str(), name.size() + 1));
}

size_t NetlinkMessage::Begin(uint16_t type) {
  size_t begun = buffer_.size();
  Attribute(type, {});
  return begun;
}

NetlinkMessage& NetlinkMessage::End(size_t begun) {
  size_t length = buffer_.size() - begun;
  CHECK(length <= UINT16_MAX);
  auto short_length = static_cast<uint16_t>(length);
  memcpy(buffer_.data() + begun + offsetof(rtattr, rta_len), &short_length, sizeof short_length);
  return *this;
}

std::string_view NetlinkMessage::Finish(uint32_t sequence) {
  auto length = static_cast<uint32_t>(buffer_.size());
  memcpy(buffer_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof length);
  memcpy(buffer_.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof sequence);
  return buffer_;
}

void ForEachAttribute(std::string_view attributes, const std::function<void(uint16_t, std::string_view)>& each) {
  rtattr header;
  while (ReadAs(attributes, &header)) {
    if (header.rta_len < sizeof header || header.rta_len > attributes.size()) return;
    each(header.rta_type & NLA_TYPE_MASK, attributes.substr(sizeof header, header.rta_len - sizeof header));
    attributes.remove_prefix(std::min<size_t>(RTA_ALIGN(header.rta_len), attributes.size()));
  }
}

Result<RouteSocket> RouteSocket::Open() {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd) return ErrnoError("open a NETLINK_ROUTE socket");
  // The kernel has answered before send returns; this only keeps a surprise from blocking for ever.
  if (setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kReceiveTimeout, sizeof kReceiveTimeout) != 0) {
    return ErrnoError("set the timeout of a netlink socket");
  }
  return RouteSocket(std::move(fd));
}

Result<> RouteSocket::Send(NetlinkMessage& message, std::string_view what) {
  std::string_view bytes = message.Finish(++sequence_);
  sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  ssize_t sent;
  do {
    sent = sendto(fd_.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&kernel), sizeof kernel);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return ErrnoError("{}", what);
  return {};
}

Result<> RouteSocket::Execute(NetlinkMessage& message, std::string_view what) {
  // Without NLM_F_ACK success would say nothing. flags are the header's 16 bits after length and type.
  auto* header = reinterpret_cast<nlmsghdr*>(const_cast<char*>(message.Finish(0).data()));
  header->nlmsg_flags |= NLM_F_ACK;
  return Dump(message, what, [](uint16_t, std::string_view) { return true; });
}

Result<> RouteSocket::Dump(NetlinkMessage& message, std::string_view what,
                           const std::function<bool(uint16_t, std::string_view)>& each) {
  TRY(Send(message, what));
  std::string buffer(kReceiveBytes, '\0');
  bool wanted = true;
  for (;;) {
    sockaddr_nl from = {};
    socklen_t from_size = sizeof from;
    ssize_t got = recvfrom(fd_.get(), buffer.data(), buffer.size(), 0, reinterpret_cast<sockaddr*>(&from), &from_size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoError("{}: read the kernel's answer", what);
    // Other processes may send to a netlink socket too; only port 0 is the kernel.
    if (from.nl_pid != 0) continue;
    std::string_view rest(buffer.data(), static_cast<size_t>(got));
    nlmsghdr header;
    while (ReadAs(rest, &header) && header.nlmsg_len >= sizeof header && header.nlmsg_len <= rest.size()) {
      std::string_view payload = rest.substr(sizeof header, header.nlmsg_len - sizeof header);
      rest.remove_prefix(std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), rest.size()));
      if (header.nlmsg_seq != sequence_) continue;  // of an answer that was given up
      if (header.nlmsg_type == NLMSG_DONE) return {};
      if (header.nlmsg_type == NLMSG_ERROR) {
        int error = -EPROTO;
        ReadAs(payload, &error);
        if (error == 0) return {};
        return SysError(-error, what);
      }
      if (wanted) wanted = each(header.nlmsg_type, payload);
    }
  }
}

Result<std::vector<Link>> RouteSocket::Links(size_t limit) {
  NetlinkMessage request(RTM_GETLINK, NLM_F_DUMP);
  request.Body(ifinfomsg{});
  std::vector<Link> links;
  TRY(Dump(request, "list network links", [&](uint16_t type, std::string_view payload) {
    ifinfomsg info;
    if (type != RTM_NEWLINK || !ReadAs(payload, &info)) return true;
    links.push_back(ReadLink(info, payload.substr(std::min<size_t>(NLMSG_ALIGN(sizeof info), payload.size()))));
    return links.size() < limit;
  }));
  return links;
}

Result<> RouteSocket::SetUp(int index) {
  NetlinkMessage request(RTM_NEWLINK, 0);
  ifinfomsg info = {};
  info.ifi_index = index;
  info.ifi_flags = info.ifi_change = IFF_UP;
  request.Body(info);
  return Execute(request, fmt::format("set network link {} up", index));
}

}  // namespace caisson::sys

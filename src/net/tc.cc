// SPDX-License-Identifier: Apache-2.0
#include "net/tc.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/netlink.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>

#include <cerrno>
#include <string>
#include <string_view>

#include "base/scope_exit.h"
#include "sys/netlink.h"

namespace caisson::net {
namespace {

constexpr uint32_t kIngressHandle = TC_H_MAKE(TC_H_INGRESS, 0);  // "ffff:"
constexpr uint32_t kPriority = 1;
constexpr uint16_t kFirstAction = 1;  // actions are numbered from 1

template <class T>
std::string_view BytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

tcmsg MessageFor(int index) {
  tcmsg message = {};
  message.tcm_family = AF_UNSPEC;
  message.tcm_ifindex = index;
  return message;
}

Result<> AddIngress(sys::RouteSocket* socket, int index) {
  tcmsg body = MessageFor(index);
  body.tcm_parent = TC_H_INGRESS;
  body.tcm_handle = kIngressHandle;
  sys::NetlinkMessage message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
  message.Body(body).AttributeName(TCA_KIND, "ingress");
  return socket->Execute(message, fmt::format("add an ingress qdisc to network link {}", index));
}

// tc filter add dev FROM parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev TO
Result<> AddRedirect(sys::RouteSocket* socket, int from, int to) {
  tcmsg body = MessageFor(from);
  body.tcm_parent = kIngressHandle;
  body.tcm_info = TC_H_MAKE(kPriority << 16, htons(ETH_P_ALL));
  // A selector with one key that looks at no bit: every frame.
  tc_u32_sel selector = {};
  selector.flags = TC_U32_TERMINAL;
  selector.nkeys = 1;
  tc_u32_key key = {};
  tc_mirred redirect = {};
  redirect.action = TC_ACT_STOLEN;
  redirect.eaction = TCA_EGRESS_REDIR;
  redirect.ifindex = static_cast<uint32_t>(to);

  sys::NetlinkMessage message(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL);
  message.Body(body).AttributeName(TCA_KIND, "u32");
  size_t options = message.Begin(TCA_OPTIONS);
  message.Attribute(TCA_U32_SEL, std::string(BytesOf(selector)).append(BytesOf(key)));
  size_t actions = message.Begin(TCA_U32_ACT);
  size_t action = message.Begin(kFirstAction);
  message.AttributeName(TCA_ACT_KIND, "mirred");
  size_t parameters = message.Begin(TCA_ACT_OPTIONS);
  message.Attribute(TCA_MIRRED_PARMS, BytesOf(redirect)).End(parameters).End(action).End(actions).End(options);
  return socket->Execute(message, fmt::format("redirect network link {} to link {}", from, to));
}

}  // namespace

Result<> JoinInterfaces(int one, int other) {
  sys::RouteSocket socket = TRY(sys::RouteSocket::Open());
  Rollback rollback;
  for (int index : {one, other}) {
    TRY(AddIngress(&socket, index));
    rollback.Add([index] { (void)ReleaseInterface(index); });
    TRY(AddRedirect(&socket, index, index == one ? other : one));
  }
  rollback.Commit();
  return {};
}

Result<> ReleaseInterface(int index) {
  sys::RouteSocket socket = TRY(sys::RouteSocket::Open());
  tcmsg body = MessageFor(index);
  body.tcm_parent = TC_H_INGRESS;
  body.tcm_handle = kIngressHandle;
  sys::NetlinkMessage message(RTM_DELQDISC, 0);
  auto gone = socket.Execute(message.Body(body), fmt::format("take the ingress qdisc off network link {}", index));
  if (gone || gone.error().sys_errno == ENODEV || gone.error().sys_errno == ENOENT || gone.error().sys_errno == EINVAL) return {};
  return gone;
}

}  // namespace caisson::net

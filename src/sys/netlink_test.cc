// SPDX-License-Identifier: Apache-2.0
#include "sys/netlink.h"

#include <gtest/gtest.h>
#include <linux/if.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

namespace caisson::sys {
namespace {

TEST(NetlinkMessage, AttributesArePaddedAndNested) {
  NetlinkMessage message(RTM_NEWLINK, NLM_F_CREATE);
  message.Body(ifinfomsg{}).AttributeName(IFLA_IFNAME, "lo");
  size_t nest = message.Begin(IFLA_LINKINFO);
  message.AttributeName(IFLA_INFO_KIND, "dummy").End(nest);
  std::string bytes(message.Finish(7));

  nlmsghdr header;
  memcpy(&header, bytes.data(), sizeof header);
  EXPECT_EQ(header.nlmsg_len, bytes.size());
  EXPECT_EQ(header.nlmsg_seq, 7u);
  EXPECT_EQ(header.nlmsg_flags, NLM_F_CREATE | NLM_F_REQUEST);
  EXPECT_EQ(bytes.size() % 4, 0u);

  std::vector<std::pair<uint16_t, std::string>> seen;
  ForEachAttribute(std::string_view(bytes).substr(sizeof header + sizeof(ifinfomsg)),
                   [&](uint16_t type, std::string_view value) { seen.emplace_back(type, value); });
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].second, std::string("lo\0", 3));
  EXPECT_EQ(seen[1].first, IFLA_LINKINFO);
  ForEachAttribute(seen[1].second, [&](uint16_t type, std::string_view value) {
    EXPECT_EQ(type, IFLA_INFO_KIND);
    EXPECT_EQ(value, std::string_view("dummy\0", 6));
  });
}

TEST(ForEachAttribute, StopsAtAMalformedLength) {
  for (uint16_t length : {0, 3, 9, 65535}) {
    rtattr header = {length, 1};
    std::string bytes(reinterpret_cast<char*>(&header), sizeof header);
    bytes += "abcd";
    ForEachAttribute(bytes, [&](uint16_t, std::string_view) { ADD_FAILURE() << length; });
  }
}

TEST(RouteSocket, ListsLoopback) {
  auto socket = RouteSocket::Open();
  ASSERT_TRUE(socket) << socket.error().message;
  for (int round = 0; round < 2; ++round) {  // the second is not confused by the first
    auto links = socket->Links(1000);
    ASSERT_TRUE(links) << links.error().message;
    ASSERT_FALSE(links->empty());
    EXPECT_EQ(links->front().name, "lo");
    EXPECT_EQ(links->front().index, 1);
  }
}

TEST(RouteSocket, TheLimitEndsTheListButNotTheSocket) {
  auto socket = RouteSocket::Open();
  ASSERT_TRUE(socket);
  auto links = socket->Links(1);
  ASSERT_TRUE(links);
  EXPECT_EQ(links->size(), 1u);
  EXPECT_TRUE(socket->Links(1000));
}

TEST(RouteSocket, TheKernelsRefusalIsTheError) {
  auto socket = RouteSocket::Open();
  ASSERT_TRUE(socket);
  auto up = socket->SetUp(0x7ffffff0);
  ASSERT_FALSE(up);
  EXPECT_NE(up.error().sys_errno, 0);
  EXPECT_NE(up.error().message.find("2147483632"), std::string::npos) << up.error().message;
}

}  // namespace
}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
#include "net/any_port.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <string>

#include "sys/netns_fixture.h"

namespace caisson::net {
namespace {

using sys::InNewNetns;
using sys::RunTool;

constexpr int kConnectionMillis = 10'000;

// A connection to `host`, and why there is none.
struct Dialled {
  UniqueFd socket;
  int error = 0;
};

Dialled Dial(const std::string& host, uint16_t port) {
  sockaddr_in four = {};
  four.sin_family = AF_INET;
  four.sin_port = htons(port);
  sockaddr_in6 six = {};
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(port);
  const bool is_four = inet_pton(AF_INET, host.c_str(), &four.sin_addr) == 1;
  EXPECT_TRUE(is_four || inet_pton(AF_INET6, host.c_str(), &six.sin6_addr) == 1) << host;
  Dialled dialled;
  dialled.socket = UniqueFd(socket(is_four ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(dialled.socket.get(), is_four ? reinterpret_cast<sockaddr*>(&four) : reinterpret_cast<sockaddr*>(&six), is_four ? sizeof four : sizeof six) != 0) dialled.error = errno;
  return dialled;
}

TEST(AnyPorts, LeadToTheListenerWhichIsToldThePort) {
  if (geteuid() != 0) GTEST_SKIP() << "network namespaces need root";
  InNewNetns([] {
    RunTool("ip link set lo up");
    RunTool("ip addr add 192.0.2.1/32 dev lo");
    auto any = ListenOnAnyPort();
    ASSERT_TRUE(any) << any.error().message;
    EXPECT_FALSE(AcceptAny(*any));
    EXPECT_EQ(AcceptAny(*any).error().code, Code::kUnavailable);
    for (const char* host : {"127.0.0.1", "127.9.8.7", "::1"}) {
      for (uint16_t port : {1, 80, 50'051, 65'535}) {
        Dialled client = Dial(host, port);
        ASSERT_EQ(client.error, 0) << host << " " << port;
        pollfd watched = {any->listener.get(), POLLIN, 0};
        ASSERT_EQ(poll(&watched, 1, kConnectionMillis), 1);
        auto accepted = AcceptAny(*any);
        ASSERT_TRUE(accepted) << accepted.error().message;
        EXPECT_EQ(accepted->port, port) << host;
        ASSERT_EQ(write(accepted->socket.get(), "hello", 5), 5);
        char text[8] = {};
        EXPECT_EQ(read(client.socket.get(), text, sizeof text), 5);
        EXPECT_STREQ(text, "hello");
      }
    }
    EXPECT_EQ(Dial("192.0.2.1", 80).error, ECONNREFUSED) << "an address that is not the loopback's";
    // It goes with its descriptors.
    any->link.Reset();
    EXPECT_EQ(Dial("127.0.0.1", 80).error, ECONNREFUSED);
  });
}

TEST(AnyPorts, OfANamespaceWithoutIPv6) {
  if (geteuid() != 0) GTEST_SKIP() << "network namespaces need root";
  InNewNetns([] {
    RunTool("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1");
    RunTool("ip link set lo up");
    auto any = ListenOnAnyPort();
    ASSERT_TRUE(any) << any.error().message;
    EXPECT_EQ(Dial("127.0.0.1", 4711).error, 0);
    pollfd watched = {any->listener.get(), POLLIN, 0};
    ASSERT_EQ(poll(&watched, 1, kConnectionMillis), 1);
    auto accepted = AcceptAny(*any);
    ASSERT_TRUE(accepted) << accepted.error().message;
    EXPECT_EQ(accepted->port, 4711);
  });
}

}  // namespace
}  // namespace caisson::net

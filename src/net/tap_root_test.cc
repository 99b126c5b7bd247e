// SPDX-License-Identifier: Apache-2.0
#include "net/tap.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

#include "net/netns.h"
#include "net/tc.h"
#include "sys/netns_fixture.h"

namespace caisson::net {
namespace {

using sys::InNewNetns;
using sys::RunTool;

constexpr uint16_t kTestProtocol = 0x88b5;  // IEEE 802's for experiments: no kernel answers it
constexpr int kPatienceMillis = 10'000;
constexpr size_t kHeaderBytes = 10;  // struct virtio_net_hdr; its header is no C++

class Taps : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "network namespaces need root";
  }
};

std::string Frame(const std::string& text) {
  std::string frame = "\x02\x02\x02\x02\x02\x02\x02\x03\x03\x03\x03\x03";
  frame += static_cast<char>(kTestProtocol >> 8);
  frame += static_cast<char>(kTestProtocol & 0xff);
  return frame + text + std::string(60, '.');
}

// A raw socket on the far end of the cable.
UniqueFd FarEnd(const char* name) {
  UniqueFd fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(kTestProtocol)));
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(kTestProtocol);
  address.sll_ifindex = static_cast<int>(if_nametoindex(name));
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return fd;
}

// The next frame of our protocol, without the tap's header.
std::string Next(int fd, size_t header) {
  for (;;) {
    pollfd watched = {fd, POLLIN, 0};
    if (poll(&watched, 1, kPatienceMillis) != 1) return "nothing came";
    char buffer[70'000];
    ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0) continue;
    std::string frame(buffer + header, static_cast<size_t>(got) - header);
    if (frame.size() > 14 && frame.substr(12, 2) == Frame("").substr(12, 2)) return frame;
  }
}

TEST_F(Taps, FramesPassBothWays) {
  InNewNetns([] {
    RunTool("ip link add eth0 type veth peer name far0");
    RunTool("ip link set far0 up");
    RunTool("ip link set eth0 up mtu 1400");
    auto tap = OpenTap(0, 1400);
    ASSERT_TRUE(tap) << tap.error().message;
    EXPECT_EQ(tap->name, "vmtap0");
    EXPECT_NE(RunTool("ip link show vmtap0").find("mtu 1400"), std::string::npos);
    auto joined = JoinInterfaces(static_cast<int>(if_nametoindex("eth0")), tap->index);
    ASSERT_TRUE(joined) << joined.error().message;

    UniqueFd far_end = FarEnd("far0");
    std::string out = Frame("from the guest");
    std::string with_header = std::string(kHeaderBytes, '\0') + out;
    ASSERT_EQ(write(tap->fd.get(), with_header.data(), with_header.size()), static_cast<ssize_t>(with_header.size()));
    EXPECT_EQ(Next(far_end.get(), 0), out);
    std::string in = Frame("to the guest");
    ASSERT_EQ(write(far_end.get(), in.data(), in.size()), static_cast<ssize_t>(in.size()));
    EXPECT_EQ(Next(tap->fd.get(), kHeaderBytes), in);
    EXPECT_EQ(RunTool("ip -6 addr show dev vmtap0"), "") << "frames of its own would reach the guest";

    EXPECT_EQ(JoinInterfaces(static_cast<int>(if_nametoindex("eth0")), tap->index).error().code, Code::kAlreadyExists);
    in = Frame("still joined");
    ASSERT_EQ(write(far_end.get(), in.data(), in.size()), static_cast<ssize_t>(in.size()));
    EXPECT_EQ(Next(tap->fd.get(), kHeaderBytes), in);

    auto stats = ReadInterfaceStats({"/proc/" + std::to_string(getpid()) + "/task/" + std::to_string(gettid()) + "/ns/net"}).front();
    ASSERT_TRUE(stats) << stats.error().message;
    for (const InterfaceStats& one : *stats) EXPECT_NE(one.name, "vmtap0") << "the pod has no such interface";
    EXPECT_EQ(stats->size(), 2u);

    int eth0 = static_cast<int>(if_nametoindex("eth0"));
    for (int round = 0; round < 2; ++round) EXPECT_TRUE(ReleaseInterface(eth0));
    EXPECT_EQ(RunTool("tc qdisc show dev eth0 ingress"), "");
    tap->fd.Reset();
    EXPECT_EQ(if_nametoindex("vmtap0"), 0u) << "it goes with its descriptor";
  });
}

TEST_F(Taps, OneMovesWithItsDescriptor) {
  InNewNetns([] {
    constexpr char kHere[] = "/proc/thread-self/ns/net";
    UniqueFd from(open(kHere, O_RDONLY | O_CLOEXEC));
    auto tap = OpenTap(0, 1500), second = OpenTap(1, 1500);
    ASSERT_TRUE(tap && second);
    ASSERT_EQ(unshare(CLONE_NEWNET), 0);
    UniqueFd to(open(kHere, O_RDONLY | O_CLOEXEC));
    RunTool("ip link add eth0 type veth peer name far0");
    for (const char* name : {"far0", "eth0"}) RunTool(fmt::format("ip link set {} up", name));

    ASSERT_EQ(setns(from.get(), CLONE_NEWNET), 0);
    auto moved = MoveTap(&*tap, to.get(), 1400);
    ASSERT_TRUE(moved) << moved.error().message;
    EXPECT_EQ(if_nametoindex("vmtap0"), static_cast<unsigned>(tap->index));
    std::string link = RunTool("ip link show vmtap0");
    EXPECT_NE(link.find("mtu 1400"), std::string::npos) << link;
    EXPECT_NE(link.find("LOWER_UP"), std::string::npos) << link;
    EXPECT_EQ(RunTool("ip -6 addr show dev vmtap0"), "");
    ASSERT_TRUE(JoinInterfaces(static_cast<int>(if_nametoindex("eth0")), tap->index));
    UniqueFd far_end = FarEnd("far0");
    std::string out = Frame("from the guest"), with_header = std::string(kHeaderBytes, '\0') + out;
    ASSERT_EQ(write(tap->fd.get(), with_header.data(), with_header.size()), static_cast<ssize_t>(with_header.size()));
    EXPECT_EQ(Next(far_end.get(), 0), out);

    auto taken = OpenTap(1, 1500);
    ASSERT_TRUE(taken);
    ASSERT_EQ(setns(from.get(), CLONE_NEWNET), 0);
    EXPECT_EQ(MoveTap(&*second, to.get(), 1500).error().code, Code::kAlreadyExists);
    EXPECT_EQ(if_nametoindex("vmtap1"), static_cast<unsigned>(second->index)) << "it stays where it was";
  });
}

TEST_F(Taps, AJoinThatFailsLeavesNothing) {
  InNewNetns([] {
    RunTool("ip link add eth0 up type bridge");
    int eth0 = static_cast<int>(if_nametoindex("eth0"));
    EXPECT_FALSE(JoinInterfaces(eth0, 9999));
    EXPECT_EQ(RunTool("tc qdisc show dev eth0 ingress"), "");
    EXPECT_TRUE(ReleaseInterface(9999));
  });
}

TEST_F(Taps, ATapInUseIsRefused) {
  InNewNetns([] {
    auto tap = OpenTap(3, 1500);
    ASSERT_TRUE(tap) << tap.error().message;
    EXPECT_EQ(OpenTap(3, 1500).error().code, Code::kAlreadyExists);
    auto other = OpenTap(4, 9000);
    ASSERT_TRUE(other) << other.error().message;
    EXPECT_FALSE(OpenTap(5, 1)) << "an MTU that no kernel takes";
    EXPECT_EQ(if_nametoindex("vmtap5"), 0u);
  });
}

}  // namespace
}  // namespace caisson::net

// SPDX-License-Identifier: Apache-2.0
#include "sys/interfaces.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "sys/netns_fixture.h"

namespace caisson::sys {
namespace {

using nlohmann::json;

class Interfaces : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "network namespaces need root";
  }
};

json Ip(const std::string& arguments) {
  std::string out = RunTool("ip -j " + arguments);
  return out.empty() ? json::array() : json::parse(out, nullptr, false);
}

// What must be the same on both sides, in an order of its own.
json Keep(const json& rows, const std::vector<std::string>& keys) {
  std::vector<json> kept;
  for (json row : rows) {
    json one;
    // Whether the carrier is there: the kernel marks that when it comes to it.
    json& flags = row["flags"];
    if (flags.is_array()) flags.erase(std::remove(flags.begin(), flags.end(), "linkdown"), flags.end());
    for (const std::string& key : keys) {
      if (row.contains(key)) one[key] = row[key];
    }
    kept.push_back(one);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

json Seen(const std::string& device) {
  json all;
  json link = Ip("addr show dev " + device);
  all["link"] = Keep(link, {"ifname", "address", "mtu", "link_type"});
  all["up"] = !link.empty() && link[0]["flags"].dump().find("\"UP\"") != std::string::npos;
  for (const json& one : link) all["addresses"] = Keep(one["addr_info"], {"family", "local", "prefixlen", "broadcast"});
  std::vector<std::string> route = {"dst", "gateway", "via", "dev", "scope", "prefsrc", "metric", "flags"};
  all["v4"] = Keep(Ip("-4 route show dev " + device), route);
  json v6 = Ip("-6 route show dev " + device);
  all["v6"] = Keep(v6, route);
  all["neighbours"] = Keep(Ip("neigh show nud permanent dev " + device), {"dst", "lladdr"});
  return all;
}

void AllowIpv6() {
  for (const char* path : {"/proc/sys/net/ipv6/conf/all/disable_ipv6", "/proc/sys/net/ipv6/conf/default/disable_ipv6"}) {
    UniqueFd fd(open(path, O_WRONLY | O_CLOEXEC));
    if (fd) {
      EXPECT_EQ(write(fd.get(), "0", 1), 1);
    }
  }
}

// What a kernel makes by itself once a cable is plugged, at a time of its own.
void DropOwn(json* addresses) {
  for (json& one : *addresses) {
    if (one.value("local", "").rfind("fe80:", 0) == 0) one = nullptr;
  }
  addresses->erase(std::remove(addresses->begin(), addresses->end(), json()), addresses->end());
}

TEST_F(Interfaces, WhatIsReadInOneNamespaceIsAppliedInAnother) {
  NetworkSetup setup;
  json source, copy;
  InNewNetns([&] {
    AllowIpv6();
    RunTool("ip link add eth0 type bridge");
    RunTool("ip link set eth0 address 0a:58:0a:01:02:03 mtu 1450");
    RunTool("ip addr add 10.1.2.3/24 brd + dev eth0");
    RunTool("ip addr add 10.9.0.7/32 dev eth0");
    RunTool("ip link set eth0 up");
    RunTool("ip addr add fd00::3/64 dev eth0 nodad");
    // As Calico: a gateway that no prefix covers. As a policy: a source, a metric, a gateway of the other family.
    RunTool("ip route add 169.254.1.1 dev eth0 scope link");
    RunTool("ip route add 10.20.0.0/16 via 169.254.1.1 dev eth0");
    RunTool("ip route add default via 10.1.2.1 dev eth0 src 10.1.2.3");
    RunTool("ip route add 10.30.0.0/16 via 172.16.0.1 dev eth0 onlink metric 7");
    RunTool("ip route add 10.40.0.0/16 via inet6 fd00::9 dev eth0");
    RunTool("ip -6 route add default via fd00::1 dev eth0 metric 12");
    RunTool("ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee nud permanent dev eth0");
    RunTool("ip neigh add fd00::1 lladdr ee:ee:ee:ee:ee:01 nud permanent dev eth0");
    RunTool("ip neigh add 10.1.2.9 lladdr ee:ee:ee:ee:ee:02 nud reachable dev eth0");
    source = Seen("eth0");
    auto got = ReadNetwork();
    ASSERT_TRUE(got) << got.error().message;
    setup = *got;
  });
  ASSERT_EQ(setup.interfaces.size(), 1u);
  EXPECT_EQ(setup.interfaces[0].name, "eth0");
  EXPECT_EQ(setup.interfaces[0].mac, "0a:58:0a:01:02:03");
  EXPECT_EQ(setup.interfaces[0].mtu, 1450u);
  EXPECT_EQ(setup.interfaces[0].addresses, (std::vector<std::string>{"10.1.2.3/24", "10.9.0.7/32", "fd00::3/64"}));
  EXPECT_EQ(setup.neighbours.size(), 2u);
  // A gateway may come before the route that makes it reachable.
  std::reverse(setup.routes.begin(), setup.routes.end());
  InNewNetns([&] {
    RunTool("ip link add virtual7 type bridge");
    for (int round = 0; round < 2; ++round) {
      auto applied = ApplyNetwork(setup);
      ASSERT_TRUE(applied) << applied.error().message;
    }
    copy = Seen("eth0");
    EXPECT_NE(Ip("link show dev lo")[0]["flags"].dump().find("\"UP\""), std::string::npos);
  });
  DropOwn(&source["addresses"]);
  DropOwn(&copy["addresses"]);
  DropOwn(&source["v6"]);
  DropOwn(&copy["v6"]);
  EXPECT_EQ(source, copy);
  EXPECT_EQ(source["v4"].size(), 6u) << source.dump(1);
  EXPECT_EQ(source["addresses"].size(), 3u);
}

TEST_F(Interfaces, LinksAreFoundByMacAndNamesMayBeSwapped) {
  NetworkSetup setup;
  setup.interfaces = {{"eth0", "0a:00:00:00:00:01", 1400, {"10.1.0.2/24"}}, {"net1", "0a:00:00:00:00:02", 0, {}}};
  InNewNetns([&] {
    RunTool("ip link add net1 address 0a:00:00:00:00:01 up type bridge");
    RunTool("ip link add eth0 address 0a:00:00:00:00:02 up type bridge");
    auto applied = ApplyNetwork(setup);
    ASSERT_TRUE(applied) << applied.error().message;
    EXPECT_EQ(Ip("link show dev eth0")[0]["address"], "0a:00:00:00:00:01");
    EXPECT_EQ(Ip("link show dev eth0")[0]["mtu"], 1400);
    EXPECT_EQ(Ip("link show dev net1")[0]["address"], "0a:00:00:00:00:02");
    auto got = ReadNetwork();
    ASSERT_TRUE(got) << got.error().message;
    EXPECT_EQ(got->interfaces.size(), 2u) << "one without addresses is up";
  });
}

TEST_F(Interfaces, WhatCannotBePassedOnIsNamed) {
  InNewNetns([] {
    RunTool("ip link add eth0 up type bridge");
    RunTool("ip link add unused type bridge");
    RunTool("ip addr add 10.0.0.2/24 dev eth0");
    auto plain = ReadNetwork();
    ASSERT_TRUE(plain) << plain.error().message;
    EXPECT_EQ(plain->interfaces.size(), 1u);
    RunTool("ip route add 10.5.0.0/16 nexthop via 10.0.0.3 dev eth0 nexthop via 10.0.0.4 dev eth0");
    auto several = ReadNetwork();
    ASSERT_FALSE(several);
    EXPECT_EQ(several.error().code, Code::kUnimplemented);
    EXPECT_NE(several.error().message.find("10.5.0.0/16"), std::string::npos) << several.error().message;
    RunTool("ip route del 10.5.0.0/16");
    ASSERT_TRUE(ReadNetwork());
  });
}

TEST_F(Interfaces, BadTextIsRefused) {
  InNewNetns([] {
    RunTool("ip link add eth0 type bridge");
    const NetworkInterface good = {"eth0", "0a:00:00:00:00:01", 1500, {"10.0.0.2/24"}};
    auto refused = [&](NetworkSetup setup) {
      auto applied = ApplyNetwork(setup);
      return !applied && applied.error().code == Code::kInvalidArgument;
    };
    auto with = [&](auto change) {
      NetworkSetup setup;
      setup.interfaces = {good};
      change(&setup);
      return setup;
    };
    EXPECT_TRUE(ApplyNetwork(with([](NetworkSetup*) {})));
    for (const char* address : {"", "10.0.0.2", "10.0.0.2/33", "10.0.0.2/-1", "fd00::1/129", "x/8", "10.0.0/8"}) {
      EXPECT_TRUE(refused(with([&](NetworkSetup* s) { s->interfaces[0].addresses = {address}; }))) << address;
    }
    for (const char* name : {"", ".", "..", "a/b", "../../x", "sixteen-letters-", "a b"}) {
      EXPECT_TRUE(refused(with([&](NetworkSetup* s) { s->interfaces[0].name = name; }))) << name;
    }
    for (const char* mac : {"", "0a:00:00:00:00", "0a:00:00:00:00:0g", "0a-00-00-00-00-01", "0a:00:00:00:00:01:"}) {
      EXPECT_TRUE(refused(with([&](NetworkSetup* s) { s->interfaces[0].mac = mac; }))) << mac;
    }
    EXPECT_TRUE(refused(with([](NetworkSetup* s) { s->routes = {{"10.5.0.0/16", "", "eth9", "", 253, false, 0}}; })));
    EXPECT_TRUE(refused(with([](NetworkSetup* s) { s->routes = {{"10.5.0.0/16", "?", "eth0", "", 0, false, 0}}; })));
    EXPECT_TRUE(refused(with([](NetworkSetup* s) { s->routes = {{"10.5.0.0/16", "", "eth0", "", 999, false, 0}}; })));
    EXPECT_TRUE(refused(with([](NetworkSetup* s) { s->neighbours = {{"10.0.0.9", "zz", "eth0"}}; })));
    // The kernel's refusal names what it refused.
    auto far_gateway = [](NetworkSetup* s) { s->routes = {{"10.5.0.0/16", "172.16.0.1", "eth0", "", 0, false, 0}}; };
    auto unreachable = ApplyNetwork(with(far_gateway));
    ASSERT_FALSE(unreachable);
    EXPECT_NE(unreachable.error().message.find("10.5.0.0/16"), std::string::npos) << unreachable.error().message;
  });
}

TEST_F(Interfaces, WithoutADeviceOfItsOwnAnInterfaceIsAnError) {
  InNewNetns([] {
    NetworkSetup setup;
    setup.interfaces = {{"eth0", "0a:00:00:00:00:01", 1500, {}}};
    auto none = ApplyNetwork(setup);
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, Code::kNotFound);
    RunTool("ip link add name a type bridge");
    RunTool("ip link add name b type bridge");
    EXPECT_FALSE(ApplyNetwork(setup)) << "which of the two?";
  });
}

}  // namespace
}  // namespace caisson::sys

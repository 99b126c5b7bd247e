// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caisson::cri {
namespace {

using testing::HasSubstr;

TEST(ParseQuantity, ReadsWhatKubernetesWrites) {
  EXPECT_EQ(*ParseQuantity("10"), 10);
  EXPECT_EQ(*ParseQuantity("10M"), 10'000'000);
  EXPECT_EQ(*ParseQuantity("1.5Gi"), 1'610'612'736);
  EXPECT_EQ(*ParseQuantity("1500m"), 2);
  EXPECT_EQ(*ParseQuantity("1e3"), 1000);
  for (const char* bad : {"", "M", "-1", "1 M", "1MM", "1.2.3", "1e", "1e99", "99999999999P", "0x10", "inf", "nan"}) {
    EXPECT_FALSE(ParseQuantity(bad)) << bad;
  }
}

TEST(BandwidthOf, IsTheCniCapability) {
  runtime::v1::PodSandboxConfig config;
  EXPECT_FALSE(BandwidthOf(config)->has_value());
  (*config.mutable_annotations())["kubernetes.io/ingress-bandwidth"] = "1M";
  EXPECT_EQ(**BandwidthOf(config), R"({"ingressRate":1000000,"ingressBurst":2147483647})");
  (*config.mutable_annotations())["kubernetes.io/egress-bandwidth"] = "1";
  EXPECT_THAT(BandwidthOf(config).error().message, HasSubstr("egress-bandwidth"));
}

TEST(AttachmentOf, SaysTheSameForAddAndDel) {
  PodRecord pod;
  pod.set_id("id");
  pod.set_netns_path("/run/n");
  auto& config = *pod.mutable_config();
  config.mutable_metadata()->set_name("n");
  config.mutable_metadata()->set_namespace_("ns");
  config.mutable_metadata()->set_uid("u");
  auto* port = config.add_port_mappings();
  port->set_container_port(80);
  port = config.add_port_mappings();
  port->set_protocol(runtime::v1::UDP);
  port->set_container_port(53);
  port->set_host_port(5353);
  port->set_host_ip("10.0.0.1");
  config.mutable_dns_config()->add_servers("1.1.1.1");
  auto attachment = AttachmentOf(pod);
  ASSERT_TRUE(attachment);
  EXPECT_EQ(attachment->container_id, "id");
  EXPECT_EQ(attachment->netns_path, "/run/n");
  EXPECT_EQ(attachment->args.at("K8S_POD_NAMESPACE"), "ns");
  EXPECT_EQ(attachment->args.at("K8S_POD_INFRA_CONTAINER_ID"), "id");
  ASSERT_EQ(attachment->port_mappings.size(), 1u);
  EXPECT_EQ(attachment->port_mappings[0].protocol, "udp");
  EXPECT_EQ(attachment->port_mappings[0].host_port, 5353);
  EXPECT_EQ(attachment->dns_servers.at(0), "1.1.1.1");
}

TEST(NetworkRecord, RoundTrip) {
  net::NetworkResult result;
  result.ips = {"10.0.0.2", "fd00::2"};
  result.mac = "aa:bb";
  result.raw_json = "{}";
  result.config_json = "{\"name\":\"x\"}";
  daemon::v1::NetworkRecord record;
  SetNetwork(result, &record);
  auto back = NetworkResultOf(record);
  EXPECT_EQ(back.ips, result.ips);
  EXPECT_EQ(back.config_json, result.config_json);
}

}  // namespace
}  // namespace caisson::cri

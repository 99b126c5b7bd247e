// SPDX-License-Identifier: Apache-2.0
#include "cri/verbose.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/json.h"

namespace caisson::cri {
namespace {

TEST(Verbose, TimelineIsAListOfSteps) {
  PodRecord record;
  EXPECT_EQ(TimelineJson(record.timeline()), "[]");
  auto& step = *record.add_timeline();
  step.set_operation("run_pod_sandbox");
  step.set_name("netns");
  step.set_begin_nanos(1'700'000'000'000'000'001);
  step.set_end_nanos(1'700'000'000'000'000'002);
  record.add_timeline()->set_error("no \"more\"");
  auto steps = ParseJson(TimelineJson(record.timeline()));
  ASSERT_TRUE(steps && steps->is_array() && steps->size() == 2);
  EXPECT_EQ((*steps)[0], (Json{{"operation", "run_pod_sandbox"},
                               {"name", "netns"},
                               {"begin_nanos", 1'700'000'000'000'000'001},
                               {"end_nanos", 1'700'000'000'000'000'002},
                               {"error", ""}}));
  EXPECT_EQ((*steps)[1]["error"], "no \"more\"");
}

TEST(Verbose, PodInfoNamesProcessAndNamespace) {
  PodRecord record;
  record.set_sandbox_pid(7);
  record.set_netns_path("/run/x/netns/p");
  record.mutable_config()->mutable_metadata()->set_name("web");
  record.mutable_config()->mutable_linux()->mutable_resources()->set_cpu_shares(5);
  record.mutable_overhead()->set_cpu_shares(6);  // an update's
  auto info = ParseJson(PodInfoJson(record));
  ASSERT_TRUE(info);
  EXPECT_EQ((*info)["resources"]["cpu_shares"], "5");
  EXPECT_EQ((*info)["overhead"]["cpu_shares"], "6");
  EXPECT_EQ((*info)["pid"], 7);
  EXPECT_EQ((*info)["netns"], "/run/x/netns/p");
  EXPECT_EQ((*info)["config"]["metadata"]["name"], "web");
  EXPECT_EQ((*info)["cniCheck"], nullptr);
}

TEST(Verbose, PodInfoTellsOfTheNetworksCheck) {
  PodRecord record;
  record.mutable_network()->set_checked_at_nanos(5);
  record.mutable_network()->set_check_error("eth0 is gone");
  auto info = ParseJson(PodInfoJson(record));
  ASSERT_TRUE(info);
  EXPECT_EQ((*info)["cniCheck"], (Json{{"checkedAtNanos", 5}, {"error", "eth0 is gone"}}));
}

TEST(Verbose, ContainerInfoNamesProcessAndBundle) {
  ContainerRecord record;
  record.set_pid(8);
  record.set_pod_id("p");
  auto info = ParseJson(ContainerInfoJson(record, "/run/x/containers/c"));
  ASSERT_TRUE(info);
  EXPECT_EQ((*info)["pid"], 8);
  EXPECT_EQ((*info)["sandboxID"], "p");
  EXPECT_EQ((*info)["bundle"], "/run/x/containers/c");
}

}  // namespace
}  // namespace caisson::cri

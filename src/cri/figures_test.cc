// SPDX-License-Identifier: Apache-2.0
#include "cri/figures.h"

#include <gtest/gtest.h>

#include "caisson/pod/v1/pod.pb.h"

namespace caisson::cri {
namespace {

namespace v1 = runtime::v1;

pod::v1::ContainerStats StatsSample(const std::string& id) {
  pod::v1::ContainerStats figures;
  figures.set_container_id(id);
  figures.set_timestamp_nanos(1'000'000'000'000);
  figures.set_cpu_usage_nanos(5);
  figures.set_memory_usage_bytes(300);
  figures.set_memory_working_set_bytes(200);
  figures.set_memory_rss_bytes(100);
  figures.set_memory_limit_bytes(1000);
  figures.set_swap_usage_bytes(10);
  figures.set_swap_limit_bytes(50);
  figures.set_pids(3);
  return figures;
}

v1::ContainerStats Message(const pod::v1::ContainerStats& figures, CpuRates* rates) {
  v1::ContainerStats message;
  SetFigures(figures, rates, &message);
  return message;
}

TEST(Figures, OfAContainer) {
  CpuRates rates;
  auto message = Message(StatsSample("a"), &rates);
  EXPECT_EQ(message.cpu().usage_core_nano_seconds().value(), 5u);
  EXPECT_FALSE(message.cpu().has_usage_nano_cores());
  EXPECT_EQ(message.memory().usage_bytes().value(), 300u);
  EXPECT_EQ(message.memory().working_set_bytes().value(), 200u);
  EXPECT_EQ(message.memory().rss_bytes().value(), 100u);
  EXPECT_EQ(message.memory().available_bytes().value(), 800u);
  EXPECT_EQ(message.swap().swap_usage_bytes().value(), 10u);
  EXPECT_EQ(message.swap().swap_available_bytes().value(), 40u);
  auto later = StatsSample("a");
  later.set_timestamp_nanos(later.timestamp_nanos() + 2'000'000'000);
  later.set_cpu_usage_nanos(5 + 1'000'000'000);
  EXPECT_EQ(Message(later, &rates).cpu().usage_nano_cores().value(), 500'000'000u);
}

TEST(Figures, PressureInTheUnitsOfTheCri) {
  CpuRates rates;
  auto figures = StatsSample("a");
  EXPECT_FALSE(Message(figures, &rates).cpu().has_psi());
  EXPECT_FALSE(Message(figures, &rates).has_io());
  auto& some = *figures.mutable_io_pressure()->mutable_some();
  some.set_total_micros(7);
  some.set_avg10(125);
  auto message = Message(figures, &rates);
  EXPECT_EQ(message.io().psi().some().total(), 7000u);
  EXPECT_DOUBLE_EQ(message.io().psi().some().avg10(), 1.25);
  EXPECT_FALSE(message.memory().has_psi());
}

TEST(Figures, WithoutALimitNothingIsAvailableToSay) {
  CpuRates rates;
  auto figures = StatsSample("a");
  figures.set_memory_limit_bytes(0);
  figures.set_swap_limit_bytes(UINT64_MAX);
  auto message = Message(figures, &rates);
  EXPECT_FALSE(message.memory().has_available_bytes());
  EXPECT_FALSE(message.swap().has_swap_available_bytes());
}

TEST(Figures, MoreUsedThanAllowedLeavesNothing) {
  CpuRates rates;
  auto figures = StatsSample("a");
  figures.set_memory_limit_bytes(150);
  figures.set_swap_limit_bytes(5);
  auto message = Message(figures, &rates);
  EXPECT_EQ(message.memory().available_bytes().value(), 0u);
  EXPECT_EQ(message.swap().swap_available_bytes().value(), 0u);
}

TEST(Figures, OfAPodAreTheSums) {
  CpuRates rates;
  std::vector<ContainerFigures> containers(3);
  for (int i = 0; i < 2; ++i) {
    containers[i].message = Message(StatsSample(i ? "b" : "a"), &rates);
    containers[i].processes = 3;
    containers[i].answered = true;
  }
  PodRecord pod;
  pod.set_id("p");
  auto stats = PodStatsMessage(pod, {}, &rates, containers);
  EXPECT_EQ(stats.attributes().id(), "p");
  EXPECT_EQ(stats.linux().cpu().usage_core_nano_seconds().value(), 10u);
  EXPECT_FALSE(stats.linux().cpu().has_usage_nano_cores());
  EXPECT_EQ(stats.linux().memory().working_set_bytes().value(), 400u);
  EXPECT_EQ(stats.linux().memory().available_bytes().value(), 1600u);
  EXPECT_EQ(stats.linux().process().process_count().value(), 6u);
  EXPECT_EQ(stats.linux().containers_size(), 3);
  EXPECT_FALSE(stats.linux().has_network());
}

TEST(Figures, OfAPodWithAGroupAreTheGroups) {
  CpuRates rates;
  std::vector<ContainerFigures> containers(2);
  containers[0].message = Message(StatsSample("a"), &rates);
  containers[0].processes = 3;
  containers[0].answered = true;
  auto group = StatsSample("p");
  group.set_cpu_usage_nanos(77);
  group.set_pids(9);
  group.mutable_io_pressure()->mutable_some()->set_total_micros(5);
  PodRecord pod;
  pod.set_id("p");
  auto stats = PodStatsMessage(pod, {nullptr, &group}, &rates, containers);
  EXPECT_EQ(stats.linux().cpu().usage_core_nano_seconds().value(), 77u);
  EXPECT_EQ(stats.linux().process().process_count().value(), 9u);
  EXPECT_EQ(stats.linux().io().psi().some().total(), 5000u);
  EXPECT_EQ(stats.linux().containers_size(), 2);
}

TEST(Figures, OfAPodThatDoesNotAnswerAreAbsent) {
  PodRecord pod;
  CpuRates rates;
  auto stats = PodStatsMessage(pod, {}, &rates, std::vector<ContainerFigures>(1));
  EXPECT_FALSE(stats.linux().has_cpu());
  EXPECT_FALSE(stats.linux().has_memory());
  EXPECT_FALSE(stats.linux().has_process());
}

}  // namespace
}  // namespace caisson::cri

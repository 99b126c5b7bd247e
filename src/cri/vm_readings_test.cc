// SPDX-License-Identifier: Apache-2.0
#include "cri/vm_readings.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace caisson::cri {
namespace {

PodRecord ReadPod() {
  PodRecord pod;
  pod.set_id("1f");
  pod.mutable_config()->mutable_metadata()->set_name("web");
  pod.mutable_config()->mutable_metadata()->set_namespace_("shop");
  return pod;
}

const Reading* Find(const std::vector<Reading>& readings, const std::string& name, const std::string& value = "") {
  auto found = std::find_if(readings.begin(), readings.end(), [&](const Reading& reading) {
    return reading.name == name && (value.empty() || reading.labels.back().second == value);
  });
  return found == readings.end() ? nullptr : &*found;
}

TEST(VmReadings, OfAWholeMachine) {
  pod::v1::VmMetricsResponse figures;
  figures.mutable_vmm()->set_cpu_nanos(1'500'000'000);
  figures.mutable_companion()->set_resident_bytes(7);
  figures.mutable_guest()->set_steal_nanos(250'000'000);
  figures.mutable_guest()->set_load15(150);
  figures.set_start_nanos(500'000'000);
  figures.set_cloned(true);
  auto* call = figures.add_calls();
  call->set_method("Task.Create");
  call->set_count(3);
  call->set_failures(1);
  call->set_nanos(6'000'000'000);
  auto readings = VmReadings(ReadPod(), figures);
  const std::vector<std::pair<std::string, std::string>> pod = {{"namespace", "shop"}, {"pod", "web"}, {"id", "1f"}};
  const Reading* cpu = Find(readings, "vm_vmm_cpu_seconds_total");
  ASSERT_NE(cpu, nullptr);
  EXPECT_EQ(cpu->labels, pod);
  EXPECT_EQ(cpu->number, 1.5);
  EXPECT_EQ(cpu->kind, Reading::kCounter);
  EXPECT_EQ(Find(readings, "vm_guest_cpu_seconds_total", "steal")->number, 0.25);
  EXPECT_EQ(Find(readings, "vm_guest_load", "15")->number, 1.5);
  EXPECT_EQ(Find(readings, "vm_guest_answers")->number, 1);
  EXPECT_EQ(Find(readings, "vm_start_seconds", "clone")->number, 0.5);
  const Reading* rpc = Find(readings, "vm_agent_rpc_seconds", "Task.Create");
  ASSERT_NE(rpc, nullptr);
  EXPECT_EQ(rpc->kind, Reading::kSummary);
  EXPECT_EQ(rpc->number, 6);
  EXPECT_EQ(rpc->count, 3u);
  EXPECT_EQ(Find(readings, "vm_agent_rpc_failures_total", "Task.Create")->number, 1);
}

TEST(VmReadings, OfAGuestThatSaysNothing) {
  pod::v1::VmMetricsResponse figures;
  figures.mutable_vmm()->set_threads(4);
  auto readings = VmReadings(ReadPod(), figures);
  EXPECT_EQ(Find(readings, "vm_guest_answers")->number, 0);
  EXPECT_EQ(Find(readings, "vm_vmm_threads")->number, 4);
  for (const Reading& reading : readings) EXPECT_FALSE(reading.name.starts_with("vm_guest_m") || reading.name.starts_with("vm_agent_r")) << reading.name;
  EXPECT_EQ(Find(readings, "vm_start_seconds"), nullptr);
}

}  // namespace
}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace caisson::cri {
namespace {

using testing::ElementsAre;
namespace v1 = runtime::v1;

constexpr uint64_t kSecond = 1'000'000'000;

ContainerSample Sample() {
  auto record = std::make_shared<ContainerRecord>();
  record->set_id("c1");
  record->mutable_config()->mutable_metadata()->set_name("app");
  record->mutable_config()->mutable_image()->set_image("busybox");
  record->set_started_at_nanos(7 * kSecond + 1);
  ContainerSample sample = {record, {}, 4096};
  sample.stats.set_cpu_usage_nanos(3 * kSecond + 999'999'999);
  sample.stats.set_memory_page_faults(11);
  sample.stats.set_memory_major_page_faults(2);
  sample.stats.set_pids(5);
  sample.stats.mutable_cpu_pressure()->mutable_some()->set_total_micros(6'500'000);
  sample.stats.mutable_cpu_pressure()->mutable_full()->set_total_micros(1'500'000);
  auto& detail = *sample.stats.mutable_detail();
  detail.set_processes(4);
  auto& device = *detail.add_devices();
  device.set_major(4095);  // no such device
  device.set_minor(1);
  device.set_write_bytes(512);
  auto& pages = *detail.add_hugetlb();
  pages.set_page_size("2MB");
  pages.set_usage_bytes(1);
  return sample;
}

PodRecord MeteredPod() {
  PodRecord pod;
  pod.set_id("p1");
  pod.mutable_config()->mutable_metadata()->set_name("web");
  pod.mutable_config()->mutable_metadata()->set_namespace_("shop");
  return pod;
}

std::map<std::string, const v1::Metric*> ByName(const google::protobuf::RepeatedPtrField<v1::Metric>& metrics) {
  std::map<std::string, const v1::Metric*> found;
  for (const auto& metric : metrics) found.emplace(metric.name(), &metric);
  return found;
}

TEST(PodMetrics, EachDescriptorIsThereOnce) {
  std::map<std::string, int> names;
  for (const auto& one : MetricDescriptors()) {
    EXPECT_EQ(++names[one.name()], 1) << one.name();
    EXPECT_FALSE(one.help().empty()) << one.name();
  }
}

// The kubelet drops a metric whose values do not fit its descriptor.
TEST(PodMetrics, EachValueFitsItsDescriptor) {
  std::map<std::string, v1::MetricDescriptor> descriptors;
  for (auto& one : MetricDescriptors()) descriptors[one.name()] = one;
  net::InterfaceStats interface;
  interface.name = "eth0";
  auto message = PodMetrics(MeteredPod(), {interface}, {Sample()}, 5);
  ASSERT_EQ(message.container_metrics_size(), 1);
  size_t seen = 0;
  for (const auto* list : {&message.metrics(), &message.container_metrics(0).metrics()}) {
    for (const auto& metric : *list) {
      ASSERT_TRUE(descriptors.contains(metric.name())) << metric.name();
      EXPECT_EQ(metric.label_values_size(), descriptors[metric.name()].label_keys_size()) << metric.name();
      EXPECT_EQ(metric.timestamp(), 5);
      ++seen;
    }
  }
  EXPECT_GT(seen, 40u);
}

TEST(PodMetrics, Values) {
  auto message = PodMetrics(MeteredPod(), {}, {Sample()}, 5);
  EXPECT_EQ(message.pod_sandbox_id(), "p1");
  EXPECT_EQ(message.metrics_size(), 0);
  EXPECT_EQ(message.container_metrics(0).container_id(), "c1");
  auto found = ByName(message.container_metrics(0).metrics());
  auto value = [&](const char* name) { return found.contains(name) ? found[name]->value().value() : 999'999; };
  EXPECT_EQ(value("container_cpu_usage_seconds_total"), 3u);
  EXPECT_THAT(found["container_cpu_usage_seconds_total"]->label_values(), ElementsAre("app", "web", "shop", "c1", "busybox"));
  EXPECT_EQ(value("container_start_time_seconds"), 7u);
  EXPECT_EQ(value("container_processes"), 4u);
  EXPECT_EQ(value("container_threads"), 5u);
  EXPECT_EQ(value("container_fs_usage_bytes"), 4096u);
  EXPECT_EQ(value("container_pressure_cpu_waiting_seconds_total"), 6u);
  EXPECT_EQ(value("container_pressure_cpu_stalled_seconds_total"), 1u);
  EXPECT_EQ(value("container_fs_writes_bytes_total"), 512u);
  EXPECT_EQ(found["container_fs_writes_bytes_total"]->label_values(5), "4095:1");
  EXPECT_EQ(found["container_hugetlb_usage_bytes"]->label_values(5), "2MB");
  EXPECT_EQ(found["container_memory_failures_total"]->label_values(5), "pgfault");
  EXPECT_EQ(value("container_memory_failures_total"), 11u);
  // What nobody has accounted is not said.
  EXPECT_FALSE(found.contains("container_pressure_io_waiting_seconds_total"));
  EXPECT_FALSE(found.contains("container_spec_cpu_quota"));
}

TEST(PodMetrics, OfAnInterface) {
  net::InterfaceStats interface;
  interface.name = "eth0";
  interface.rx_bytes = 1;
  interface.tx_dropped = 2;
  auto message = PodMetrics(MeteredPod(), {interface}, {}, 5);
  auto found = ByName(message.metrics());
  EXPECT_EQ(found["container_network_receive_bytes_total"]->value().value(), 1u);
  EXPECT_EQ(found["container_network_transmit_packets_dropped_total"]->value().value(), 2u);
  EXPECT_THAT(found["container_network_receive_bytes_total"]->label_values(), ElementsAre("web", "shop", "p1", "eth0"));
}

}  // namespace
}  // namespace caisson::cri

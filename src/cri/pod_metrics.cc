// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_metrics.h"

#include <array>
#include <filesystem>
#include <map>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/strings.h"
#include "cri/figures.h"

namespace caisson::cri {
namespace {

namespace v1 = runtime::v1;

constexpr int64_t kLayerMillis = 1000;  // as the stats verbs
constexpr uint64_t kNanos = 1'000'000'000, kMicros = 1'000'000;
constexpr uint64_t kUnlimited = UINT64_MAX;

using Labels = std::vector<std::string>;
using Value = std::optional<uint64_t>;

const Labels& ContainerKeys() {
  static const Labels keys = {"container", "pod", "namespace", "id", "image"};
  return keys;
}
const Labels& PodKeys() {
  static const Labels keys = {"pod", "namespace", "id"};
  return keys;
}

const pod::v1::ContainerDetail& Detail(const ContainerSample& sample) { return sample.stats.detail(); }
const v1::LinuxContainerResources& Limits(const ContainerSample& sample) { return sample.record->resources(); }

Value Waiting(bool has, const pod::v1::Pressure& pressure) {
  return has ? Value(pressure.some().total_micros() / kMicros) : std::nullopt;
}
Value Stalled(bool has, const pod::v1::Pressure& pressure) {
  return has ? Value(pressure.full().total_micros() / kMicros) : std::nullopt;
}
Value Positive(int64_t value) { return value > 0 ? Value(static_cast<uint64_t>(value)) : std::nullopt; }

// A metric with one value per container.
struct Scalar {
  const char* name;
  const char* help;
  v1::MetricType type;
  Value (*read)(const ContainerSample& sample);
};

using S = const ContainerSample&;
constexpr Scalar kScalars[] = {
    {"container_cpu_usage_seconds_total", "CPU time used", v1::COUNTER, [](S s) -> Value { return s.stats.cpu_usage_nanos() / kNanos; }},
    {"container_cpu_user_seconds_total", "CPU time used in user mode", v1::COUNTER,
     [](S s) -> Value { return Detail(s).cpu_user_nanos() / kNanos; }},
    {"container_cpu_system_seconds_total", "CPU time used in the kernel", v1::COUNTER,
     [](S s) -> Value { return Detail(s).cpu_system_nanos() / kNanos; }},
    {"container_cpu_cfs_periods_total", "Periods in which the CPU quota was watched", v1::COUNTER,
     [](S s) -> Value { return Detail(s).cpu_periods(); }},
    {"container_cpu_cfs_throttled_periods_total", "Periods in which the CPU quota was used up", v1::COUNTER,
     [](S s) -> Value { return Detail(s).cpu_throttled_periods(); }},
    {"container_cpu_cfs_throttled_seconds_total", "Time for which the CPU quota was used up", v1::COUNTER,
     [](S s) -> Value { return Detail(s).cpu_throttled_nanos() / kNanos; }},
    {"container_memory_usage_bytes", "Memory in use, page cache included", v1::GAUGE,
     [](S s) -> Value { return s.stats.memory_usage_bytes(); }},
    {"container_memory_working_set_bytes", "Memory in use without inactive page cache", v1::GAUGE,
     [](S s) -> Value { return s.stats.memory_working_set_bytes(); }},
    {"container_memory_rss", "Anonymous memory in bytes", v1::GAUGE, [](S s) -> Value { return s.stats.memory_rss_bytes(); }},
    {"container_memory_cache", "Page cache in bytes", v1::GAUGE, [](S s) -> Value { return Detail(s).memory_cache_bytes(); }},
    {"container_memory_kernel_usage", "Kernel memory in bytes", v1::GAUGE,
     [](S s) -> Value { return Detail(s).memory_kernel_bytes(); }},
    {"container_memory_mapped_file", "Memory mapped files in bytes", v1::GAUGE,
     [](S s) -> Value { return Detail(s).memory_mapped_file_bytes(); }},
    {"container_memory_total_active_file_bytes", "Active page cache", v1::GAUGE,
     [](S s) -> Value { return Detail(s).memory_active_file_bytes(); }},
    {"container_memory_total_inactive_file_bytes", "Inactive page cache", v1::GAUGE,
     [](S s) -> Value { return Detail(s).memory_inactive_file_bytes(); }},
    {"container_memory_swap", "Swap in use in bytes", v1::GAUGE, [](S s) -> Value { return s.stats.swap_usage_bytes(); }},
    {"container_memory_max_usage_bytes", "Most memory ever in use", v1::GAUGE,
     [](S s) -> Value { return Detail(s).memory_max_usage_bytes(); }},
    {"container_memory_failcnt", "Times the memory limit was met", v1::COUNTER,
     [](S s) -> Value { return Detail(s).memory_fail_count(); }},
    {"container_oom_events_total", "Processes killed for want of memory", v1::COUNTER, [](S s) -> Value { return Detail(s).oom_kills(); }},
    {"container_processes", "Processes", v1::GAUGE, [](S s) -> Value { return Detail(s).processes(); }},
    {"container_threads", "Threads", v1::GAUGE, [](S s) -> Value { return s.stats.pids(); }},
    {"container_threads_max", "Threads allowed; 0: as many as it likes", v1::GAUGE, [](S s) -> Value { return Detail(s).pids_limit(); }},
    {"container_last_seen", "When the container was last seen, in seconds since 1970", v1::GAUGE,
     [](S s) -> Value { return static_cast<uint64_t>(s.stats.timestamp_nanos()) / kNanos; }},
    {"container_start_time_seconds", "When the container was started, in seconds since 1970", v1::GAUGE,
     [](S s) -> Value { return static_cast<uint64_t>(s.record->started_at_nanos()) / kNanos; }},
    {"container_fs_usage_bytes", "Bytes in the writable layer", v1::GAUGE, [](S s) -> Value { return s.layer_bytes; }},
    {"container_spec_cpu_period", "CPU period in microseconds", v1::GAUGE, [](S s) { return Positive(Limits(s).cpu_period()); }},
    {"container_spec_cpu_quota", "CPU quota in microseconds a period", v1::GAUGE, [](S s) { return Positive(Limits(s).cpu_quota()); }},
    {"container_spec_cpu_shares", "CPU shares", v1::GAUGE, [](S s) { return Positive(Limits(s).cpu_shares()); }},
    {"container_spec_memory_limit_bytes", "Memory limit; 0: none", v1::GAUGE,
     [](S s) -> Value { return s.stats.memory_limit_bytes() == kUnlimited ? 0 : s.stats.memory_limit_bytes(); }},
    {"container_spec_memory_swap_limit_bytes", "Swap limit; 0: none, or no swap", v1::GAUGE,
     [](S s) -> Value { return s.stats.swap_limit_bytes() == kUnlimited ? 0 : s.stats.swap_limit_bytes(); }},
    {"container_pressure_cpu_waiting_seconds_total", "Time in which some task waited for a CPU", v1::COUNTER,
     [](S s) { return Waiting(s.stats.has_cpu_pressure(), s.stats.cpu_pressure()); }},
    {"container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for a CPU", v1::COUNTER,
     [](S s) { return Stalled(s.stats.has_cpu_pressure(), s.stats.cpu_pressure()); }},
    {"container_pressure_memory_waiting_seconds_total", "Time in which some task waited for memory", v1::COUNTER,
     [](S s) { return Waiting(s.stats.has_memory_pressure(), s.stats.memory_pressure()); }},
    {"container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory", v1::COUNTER,
     [](S s) { return Stalled(s.stats.has_memory_pressure(), s.stats.memory_pressure()); }},
    {"container_pressure_io_waiting_seconds_total", "Time in which some task waited for a device", v1::COUNTER,
     [](S s) { return Waiting(s.stats.has_io_pressure(), s.stats.io_pressure()); }},
    {"container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for a device", v1::COUNTER,
     [](S s) { return Stalled(s.stats.has_io_pressure(), s.stats.io_pressure()); }},
};

// Metrics with several values per container, which further labels tell apart.
constexpr const char* kFaultKeys[] = {"failure_type", "scope"};
constexpr std::pair<const char*, const char*> kFaults = {"container_memory_failures_total", "Page faults"};

template <class Use>
struct UseMetric {
  const char* name;
  const char* help;
  uint64_t (Use::*read)() const;
};
constexpr UseMetric<pod::v1::BlockDeviceUse> kDeviceMetrics[] = {
    {"container_fs_reads_bytes_total", "Bytes read from block devices", &pod::v1::BlockDeviceUse::read_bytes},
    {"container_fs_reads_total", "Reads from block devices", &pod::v1::BlockDeviceUse::reads},
    {"container_fs_writes_bytes_total", "Bytes written to block devices", &pod::v1::BlockDeviceUse::write_bytes},
    {"container_fs_writes_total", "Writes to block devices", &pod::v1::BlockDeviceUse::writes},
};

constexpr UseMetric<pod::v1::HugetlbUse> kHugetlbMetrics[] = {
    {"container_hugetlb_usage_bytes", "Huge pages in use", &pod::v1::HugetlbUse::usage_bytes},
    {"container_hugetlb_max_usage_bytes", "v1: most huge pages ever in use; v2: their limit", &pod::v1::HugetlbUse::max_bytes},
};

struct InterfaceMetric {
  const char* name;
  const char* help;
  uint64_t net::InterfaceStats::*value;
};
constexpr InterfaceMetric kInterfaceMetrics[] = {
    {"container_network_receive_bytes_total", "Bytes received", &net::InterfaceStats::rx_bytes},
    {"container_network_receive_packets_total", "Packets received", &net::InterfaceStats::rx_packets},
    {"container_network_receive_packets_dropped_total", "Packets dropped when received", &net::InterfaceStats::rx_dropped},
    {"container_network_receive_errors_total", "Errors when receiving", &net::InterfaceStats::rx_errors},
    {"container_network_transmit_bytes_total", "Bytes sent", &net::InterfaceStats::tx_bytes},
    {"container_network_transmit_packets_total", "Packets sent", &net::InterfaceStats::tx_packets},
    {"container_network_transmit_packets_dropped_total", "Packets dropped when sent", &net::InterfaceStats::tx_dropped},
    {"container_network_transmit_errors_total", "Errors when sending", &net::InterfaceStats::tx_errors},
};

// "/dev/sda" of 8:0, as sysfs(5) names it; its numbers when it is gone.
std::string DeviceName(uint64_t major, uint64_t minor) {
  std::string numbers = fmt::format("{}:{}", major, minor);
  std::error_code error;
  auto target = std::filesystem::read_symlink("/sys/dev/block/" + numbers, error);
  return error ? numbers : "/dev/" + target.filename().string();
}

template <class List>
class Writer {
 public:
  Writer(const Labels& labels, int64_t at_nanos, List* list) : labels_(labels), at_nanos_(at_nanos), list_(list) {}

  void Add(const char* name, v1::MetricType type, uint64_t value, const Labels& more = {}) {
    v1::Metric& metric = *list_->Add();
    metric.set_name(name);
    metric.set_timestamp(at_nanos_);
    metric.set_metric_type(type);
    for (const std::string& label : labels_) metric.add_label_values(label);
    for (const std::string& label : more) metric.add_label_values(label);
    metric.mutable_value()->set_value(value);
  }

 private:
  const Labels& labels_;
  const int64_t at_nanos_;
  List* list_;
};

void AddContainer(const PodRecord& pod, const ContainerSample& sample, int64_t at_nanos, v1::ContainerMetrics* out) {
  const ContainerRecord& record = *sample.record;
  const auto& metadata = pod.config().metadata();
  Labels labels = {record.config().metadata().name(), metadata.name(), metadata.namespace_(), record.id(), record.config().image().image()};
  out->set_container_id(record.id());
  Writer writer(labels, at_nanos, out->mutable_metrics());
  for (const Scalar& scalar : kScalars) {
    if (auto value = scalar.read(sample)) writer.Add(scalar.name, scalar.type, *value);
  }
  writer.Add(kFaults.first, v1::COUNTER, sample.stats.memory_page_faults(), {"pgfault", "container"});
  writer.Add(kFaults.first, v1::COUNTER, sample.stats.memory_major_page_faults(), {"pgmajfault", "container"});
  for (const auto& device : Detail(sample).devices()) {
    std::string name = DeviceName(device.major(), device.minor());
    for (const auto& metric : kDeviceMetrics) writer.Add(metric.name, v1::COUNTER, (device.*metric.read)(), {name});
  }
  for (const auto& pages : Detail(sample).hugetlb()) {
    for (const auto& metric : kHugetlbMetrics) writer.Add(metric.name, v1::GAUGE, (pages.*metric.read)(), {pages.page_size()});
  }
}

}  // namespace

std::vector<v1::MetricDescriptor> MetricDescriptors() {
  std::vector<v1::MetricDescriptor> all;
  auto add = [&](const char* name, const char* help, const Labels& keys, std::initializer_list<const char*> more = {}) {
    v1::MetricDescriptor& one = all.emplace_back();
    one.set_name(name);
    one.set_help(help);
    for (const std::string& key : keys) one.add_label_keys(key);
    for (const char* key : more) one.add_label_keys(key);
  };
  for (const Scalar& scalar : kScalars) add(scalar.name, scalar.help, ContainerKeys());
  add(kFaults.first, kFaults.second, ContainerKeys(), {kFaultKeys[0], kFaultKeys[1]});
  for (const auto& metric : kDeviceMetrics) add(metric.name, metric.help, ContainerKeys(), {"device"});
  for (const auto& metric : kHugetlbMetrics) add(metric.name, metric.help, ContainerKeys(), {"pagesize"});
  for (const auto& metric : kInterfaceMetrics) add(metric.name, metric.help, PodKeys(), {"interface"});
  return all;
}

v1::PodSandboxMetrics PodMetrics(const PodRecord& pod, const std::vector<net::InterfaceStats>& interfaces,
                                 const std::vector<ContainerSample>& containers, int64_t at_nanos) {
  v1::PodSandboxMetrics message;
  message.set_pod_sandbox_id(pod.id());
  Labels labels = {pod.config().metadata().name(), pod.config().metadata().namespace_(), pod.id()};
  Writer writer(labels, at_nanos, message.mutable_metrics());
  for (const net::InterfaceStats& interface : interfaces) {
    for (const auto& metric : kInterfaceMetrics) writer.Add(metric.name, v1::COUNTER, interface.*metric.value, {interface.name});
  }
  for (const ContainerSample& sample : containers) AddContainer(pod, sample, at_nanos, message.add_container_metrics());
  return message;
}

std::vector<v1::PodSandboxMetrics> ReadPodMetrics(Context& context) {
  std::vector<PodPtr> pods;
  for (const PodPtr& pod : context.pods.List()) {
    if (pod->Get()->state() == v1::SANDBOX_READY) pods.push_back(pod);
  }
  auto running = RunningContainers(context, pods);
  auto sample = context.sampler.Get(Ask::kDetail);
  std::vector<std::string> keys;
  for (const ContainerPtr& container : running) keys.push_back(container->Get()->snapshot_key());
  auto layers = context.writable_layers.Get(keys, kLayerMillis);
  std::map<std::string, std::vector<ContainerSample>> by_pod;
  for (const ContainerPtr& container : running) {
    auto record = container->Get();
    auto at = sample->figures.find(record->id());
    // A companion that an older caissond has started knows of no detail.
    if (at == sample->figures.end() || !at->second.has_detail()) continue;
    ContainerSample one = {record, at->second, std::nullopt};
    if (one.stats.has_writable_layer()) {
      one.layer_bytes = one.stats.writable_layer().used_bytes();
    } else if (auto layer = layers.find(record->snapshot_key()); layer != layers.end()) {
      one.layer_bytes = layer->second.usage.bytes;
    }
    by_pod[record->pod_id()].push_back(std::move(one));
  }
  static const std::vector<net::InterfaceStats> kNone;
  std::vector<v1::PodSandboxMetrics> messages;
  for (const PodPtr& one : pods) {
    auto pod = one->Get();
    auto interfaces = sample->interfaces.find(pod->id());
    messages.push_back(PodMetrics(*pod, interfaces == sample->interfaces.end() ? kNone : interfaces->second, by_pod[pod->id()], sample->at_nanos));
  }
  return messages;
}

}  // namespace caisson::cri

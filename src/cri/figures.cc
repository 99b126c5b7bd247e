// SPDX-License-Identifier: Apache-2.0
#include "cri/figures.h"

#include <algorithm>
#include <set>

#include "base/clock.h"
#include "cri/ask_companions.h"

namespace caisson::cri {
namespace {

namespace v1 = runtime::v1;

constexpr int64_t kLayerMillis = 1000;  // for layers that were never measured before
constexpr const char* kDefaultInterface = "eth0";
constexpr uint64_t kUnlimited = UINT64_MAX;

// Each pod speaks for its own containers only: a guest's agent may be anybody's.
FiguresById AskFiguresOf(Context& context, const ShimsOfPods& shims, const pod::v1::StatsRequest& request) {
  auto is_of = [&context](const std::string& container_id, const std::string& pod_id) {
    auto known = context.containers.Find(container_id);
    return known && (*known)->Get()->pod_id() == pod_id;
  };
  FiguresById figures;
  for (auto& [pod_id, payload] : AskCompanions(shims, "Stats", request.SerializeAsString(), kFiguresMillis)) {
    pod::v1::StatsResponse response;
    if (!response.ParseFromString(payload)) continue;
    for (auto& container : *response.mutable_containers()) {
      if (is_of(container.container_id(), pod_id)) figures[container.container_id()] = std::move(container);
    }
    if (!response.has_pod()) continue;
    response.mutable_pod()->set_container_id(pod_id);
    figures[pod_id] = std::move(*response.mutable_pod());
  }
  return figures;
}

void SetAttributes(const ContainerRecord& record, v1::ContainerAttributes* attributes) {
  attributes->set_id(record.id());
  *attributes->mutable_metadata() = record.config().metadata();
  *attributes->mutable_labels() = record.config().labels();
  *attributes->mutable_annotations() = record.config().annotations();
}

void SetInterface(const net::InterfaceStats& stats, v1::NetworkInterfaceUsage* usage) {
  usage->set_name(stats.name);
  usage->mutable_rx_bytes()->set_value(stats.rx_bytes);
  usage->mutable_rx_errors()->set_value(stats.rx_errors);
  usage->mutable_tx_bytes()->set_value(stats.tx_bytes);
  usage->mutable_tx_errors()->set_value(stats.tx_errors);
}

void SetNetwork(const std::vector<net::InterfaceStats>& interfaces, int64_t at_nanos, v1::LinuxPodSandboxStats* stats) {
  stats->mutable_network()->set_timestamp(at_nanos);
  for (const net::InterfaceStats& interface : interfaces) {
    bool is_default = interface.name == kDefaultInterface;
    SetInterface(interface, is_default ? stats->mutable_network()->mutable_default_interface()
                                       : stats->mutable_network()->add_interfaces());
  }
}

void Add(const v1::UInt64Value& value, v1::UInt64Value* sum) { sum->set_value(sum->value() + value.value()); }

// A rate is the pod's only when each container has one: a part would look like a pod at rest.
void AddCpu(const std::vector<ContainerFigures>& containers, v1::CpuUsage* sum) {
  bool all_rates = true;
  for (const ContainerFigures& container : containers) {
    if (!container.answered) continue;
    const v1::CpuUsage& cpu = container.message.cpu();
    sum->set_timestamp(std::max(sum->timestamp(), cpu.timestamp()));
    Add(cpu.usage_core_nano_seconds(), sum->mutable_usage_core_nano_seconds());
    all_rates = all_rates && cpu.has_usage_nano_cores();
    Add(cpu.usage_nano_cores(), sum->mutable_usage_nano_cores());
  }
  if (!all_rates) sum->clear_usage_nano_cores();
}

void AddMemory(const std::vector<ContainerFigures>& containers, v1::MemoryUsage* sum) {
  bool all_limited = true;
  for (const ContainerFigures& container : containers) {
    if (!container.answered) continue;
    const v1::MemoryUsage& memory = container.message.memory();
    sum->set_timestamp(std::max(sum->timestamp(), memory.timestamp()));
    Add(memory.working_set_bytes(), sum->mutable_working_set_bytes());
    Add(memory.usage_bytes(), sum->mutable_usage_bytes());
    Add(memory.rss_bytes(), sum->mutable_rss_bytes());
    Add(memory.page_faults(), sum->mutable_page_faults());
    Add(memory.major_page_faults(), sum->mutable_major_page_faults());
    all_limited = all_limited && memory.has_available_bytes();
    Add(memory.available_bytes(), sum->mutable_available_bytes());
  }
  if (!all_limited) sum->clear_available_bytes();
}

// The CRI counts in nanoseconds and in percent.
void SetPsi(const pod::v1::Pressure& pressure, v1::PsiStats* psi) {
  auto set = [](const pod::v1::PressureLine& line, v1::PsiData* data) {
    data->set_total(line.total_micros() * 1000);
    data->set_avg10(line.avg10() / 100.0);
    data->set_avg60(line.avg60() / 100.0);
    data->set_avg300(line.avg300() / 100.0);
  };
  set(pressure.some(), psi->mutable_some());
  set(pressure.full(), psi->mutable_full());
}

// Of those that are ready and have a network of their own; one whose namespace is going has none either.
InterfacesOfPods ReadInterfaces(const std::vector<PodPtr>& pods) {
  std::vector<std::string> ids, paths;
  for (const PodPtr& one : pods) {
    auto pod = one->Get();
    if (pod->netns_path().empty() || pod->state() != v1::SANDBOX_READY) continue;
    ids.push_back(pod->id());
    paths.push_back(pod->netns_path());
  }
  auto read = net::ReadInterfaceStats(paths);
  InterfacesOfPods interfaces;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (read[i]) interfaces[ids[i]] = std::move(*read[i]);
  }
  return interfaces;
}

}  // namespace

void SetFigures(const pod::v1::ContainerStats& figures, CpuRates* rates, v1::ContainerStats* message) {
  int64_t at = figures.timestamp_nanos();
  v1::CpuUsage& cpu = *message->mutable_cpu();
  cpu.set_timestamp(at);
  cpu.mutable_usage_core_nano_seconds()->set_value(figures.cpu_usage_nanos());
  if (auto rate = rates->Sample(figures.container_id(), at, figures.cpu_usage_nanos())) {
    cpu.mutable_usage_nano_cores()->set_value(*rate);
  }
  if (figures.has_cpu_pressure()) SetPsi(figures.cpu_pressure(), cpu.mutable_psi());
  v1::MemoryUsage& memory = *message->mutable_memory();
  memory.set_timestamp(at);
  memory.mutable_working_set_bytes()->set_value(figures.memory_working_set_bytes());
  memory.mutable_usage_bytes()->set_value(figures.memory_usage_bytes());
  memory.mutable_rss_bytes()->set_value(figures.memory_rss_bytes());
  memory.mutable_page_faults()->set_value(figures.memory_page_faults());
  memory.mutable_major_page_faults()->set_value(figures.memory_major_page_faults());
  if (uint64_t limit = figures.memory_limit_bytes(); limit > 0 && limit != kUnlimited) {
    uint64_t used = std::min(limit, figures.memory_working_set_bytes());
    memory.mutable_available_bytes()->set_value(limit - used);
  }
  if (figures.has_memory_pressure()) SetPsi(figures.memory_pressure(), memory.mutable_psi());
  if (figures.has_io_pressure()) {
    message->mutable_io()->set_timestamp(at);
    SetPsi(figures.io_pressure(), message->mutable_io()->mutable_psi());
  }
  v1::SwapUsage& swap = *message->mutable_swap();
  swap.set_timestamp(at);
  swap.mutable_swap_usage_bytes()->set_value(figures.swap_usage_bytes());
  if (uint64_t limit = figures.swap_limit_bytes(); limit != kUnlimited) {
    swap.mutable_swap_available_bytes()->set_value(limit - std::min(limit, figures.swap_usage_bytes()));
  }
}

FiguresById AskFigures(Context& context, const std::vector<ContainerPtr>& containers, Ask ask) {
  ShimsOfPods shims;
  for (const ContainerPtr& container : containers) {
    auto record = container->Get();
    if (record->state() == v1::CONTAINER_EXITED || shims.contains(record->pod_id())) continue;
    auto pod = context.pods.Find(record->pod_id());
    if (auto shim = pod ? (*pod)->shim() : nullptr) shims[record->pod_id()] = std::move(shim);
  }
  pod::v1::StatsRequest request;
  if (containers.size() == 1) request.set_container_id(containers.front()->id());
  request.set_detail(ask == Ask::kDetail);
  request.set_pod(ask == Ask::kPods);
  return AskFiguresOf(context, shims, request);
}

std::vector<ContainerFigures> ReadFigures(Context& context, const std::vector<ContainerPtr>& containers) {
  return ReadFigures(context, containers, AskFigures(context, containers, Ask::kUsage));
}

std::vector<ContainerFigures> ReadFigures(Context& context, const std::vector<ContainerPtr>& containers, const FiguresById& known) {
  std::vector<std::string> keys;
  for (const ContainerPtr& container : containers) keys.push_back(container->Get()->snapshot_key());
  auto layers = context.writable_layers.Get(keys, kLayerMillis);
  std::string mountpoint = context.images.FilesystemPath();
  std::vector<ContainerFigures> figures;
  for (const ContainerPtr& container : containers) {
    auto record = container->Get();
    ContainerFigures& one = figures.emplace_back();
    SetAttributes(*record, one.message.mutable_attributes());
    auto said = known.find(record->id());
    if (said != known.end()) {
      SetFigures(said->second, &context.cpu_rates, &one.message);
      one.processes = said->second.pids();
      one.answered = true;
    }
    auto set_layer = [&](int64_t at, uint64_t bytes, uint64_t inodes) {
      v1::FilesystemUsage& layer = *one.message.mutable_writable_layer();
      layer.set_timestamp(at);
      layer.mutable_fs_id()->set_mountpoint(mountpoint);
      layer.mutable_used_bytes()->set_value(bytes);
      layer.mutable_inodes_used()->set_value(inodes);
    };
    if (said != known.end() && said->second.has_writable_layer()) {
      const pod::v1::WritableLayer& layer = said->second.writable_layer();
      set_layer(said->second.timestamp_nanos(), layer.used_bytes(), layer.used_inodes());
    } else if (auto at = layers.find(record->snapshot_key()); at != layers.end()) {
      set_layer(at->second.at_nanos, at->second.usage.bytes, at->second.usage.inodes);
    }
  }
  return figures;
}

// The group has what tmpfs volumes hold, what containers used that have ended since, and its own pressure.
void SetGroup(const pod::v1::ContainerStats& group, CpuRates* rates, v1::LinuxPodSandboxStats* stats) {
  v1::ContainerStats message;
  SetFigures(group, rates, &message);
  *stats->mutable_cpu() = std::move(*message.mutable_cpu());
  *stats->mutable_memory() = std::move(*message.mutable_memory());
  if (message.has_io()) *stats->mutable_io() = std::move(*message.mutable_io());
  stats->mutable_process()->set_timestamp(group.timestamp_nanos());
  stats->mutable_process()->mutable_process_count()->set_value(group.pids());
}

v1::PodSandboxStats PodStatsMessage(const PodRecord& pod, const PodFigures& own, CpuRates* rates, std::vector<ContainerFigures> containers) {
  v1::PodSandboxStats message;
  v1::PodSandboxAttributes& attributes = *message.mutable_attributes();
  attributes.set_id(pod.id());
  *attributes.mutable_metadata() = pod.config().metadata();
  *attributes.mutable_labels() = pod.config().labels();
  *attributes.mutable_annotations() = pod.config().annotations();
  v1::LinuxPodSandboxStats& stats = *message.mutable_linux();
  if (own.interfaces) SetNetwork(*own.interfaces, own.interfaces_at_nanos, &stats);
  if (own.group) SetGroup(*own.group, rates, &stats);
  bool any = !own.group && std::any_of(containers.begin(), containers.end(), [](const auto& one) { return one.answered; });
  if (any) {
    AddCpu(containers, stats.mutable_cpu());
    AddMemory(containers, stats.mutable_memory());
    stats.mutable_process()->set_timestamp(stats.cpu().timestamp());
  }
  for (ContainerFigures& container : containers) {
    if (any) {
      v1::UInt64Value& count = *stats.mutable_process()->mutable_process_count();
      count.set_value(count.value() + container.processes);
    }
    *stats.add_containers() = std::move(container.message);
  }
  return message;
}

std::vector<ContainerPtr> RunningContainers(Context& context, const std::vector<PodPtr>& pods) {
  std::set<std::string> ids;
  for (const PodPtr& pod : pods) ids.insert(pod->id());
  std::vector<ContainerPtr> running;
  for (const ContainerPtr& container : context.containers.List()) {
    auto record = container->Get();
    if (record->state() == v1::CONTAINER_RUNNING && ids.contains(record->pod_id())) running.push_back(container);
  }
  return running;
}

StatsSample TakeSample(Context& context, const std::vector<PodPtr>& pods, Ask ask) {
  StatsSample sample;
  sample.at_nanos = NowNanos();
  auto running = RunningContainers(context, pods);
  if (!running.empty()) sample.figures = AskFigures(context, running, ask);
  if (ask != Ask::kUsage) sample.interfaces = ReadInterfaces(pods);
  return sample;
}

StatsSample TakeSample(Context& context, Ask ask) { return TakeSample(context, context.pods.List(), ask); }

std::vector<v1::PodSandboxStats> PodFiguresOf(Context& context, const std::vector<PodPtr>& pods, const StatsSample& sample) {
  std::map<std::string, std::vector<ContainerFigures>> by_pod;
  auto containers = RunningContainers(context, pods);
  auto figures = ReadFigures(context, containers, sample.figures);
  for (size_t i = 0; i < containers.size(); ++i) {
    by_pod[containers[i]->Get()->pod_id()].push_back(std::move(figures[i]));
  }
  std::vector<v1::PodSandboxStats> messages;
  for (const PodPtr& one : pods) {
    auto pod = one->Get();
    auto network = sample.interfaces.find(pod->id());
    auto group = sample.figures.find(pod->id());
    PodFigures own;
    if (network != sample.interfaces.end()) own.interfaces = &network->second;
    own.interfaces_at_nanos = sample.at_nanos;
    if (group != sample.figures.end()) own.group = &group->second;
    messages.push_back(PodStatsMessage(*pod, own, &context.cpu_rates, std::move(by_pod[pod->id()])));
  }
  return messages;
}

}  // namespace caisson::cri

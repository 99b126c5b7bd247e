// SPDX-License-Identifier: Apache-2.0
#include "cri/vm_readings.h"

#include <iterator>
#include <utility>

#include "cri/ask_companions.h"
#include "cri/figures.h"

namespace caisson::cri {
namespace {

constexpr double kNanos = 1e9;
constexpr int kMaxMethods = 128;  // of the companion's calls; there are some 30

double Seconds(uint64_t nanos) { return static_cast<double>(nanos) / kNanos; }

class Writer {
 public:
  explicit Writer(const PodRecord& pod)
      : labels_{{"namespace", pod.config().metadata().namespace_()}, {"pod", pod.config().metadata().name()}, {"id", pod.id()}} {}

  void Gauge(const char* name, const char* help, double number) { Add(Reading::kGauge, name, help, number); }
  void Counter(const char* name, const char* help, double number) { Add(Reading::kCounter, name, help, number); }
  Reading& Add(Reading::Kind kind, const char* name, const char* help, double number) {
    Reading& reading = readings_.emplace_back();
    reading.kind = kind;
    reading.name = name;
    reading.help = help;
    reading.labels = labels_;
    reading.number = number;
    return reading;
  }
  void Labelled(Reading::Kind kind, const char* name, const char* help, const char* key, std::string value, double number, uint64_t count = 0) {
    Reading& reading = Add(kind, name, help, number);
    reading.labels.emplace_back(key, std::move(value));
    reading.count = count;
  }
  std::vector<Reading> Take() && { return std::move(readings_); }

 private:
  const std::vector<std::pair<std::string, std::string>> labels_;
  std::vector<Reading> readings_;
};

void AddVmm(const pod::v1::ProcessFigures& vmm, Writer* writer) {
  writer->Counter("vm_vmm_cpu_seconds_total", "CPU time of the VMM: the guest's, and its own", Seconds(vmm.cpu_nanos()));
  writer->Gauge("vm_vmm_resident_memory_bytes", "Memory of the VMM that is resident, the guest's included", static_cast<double>(vmm.resident_bytes()));
  writer->Gauge("vm_vmm_proportional_memory_bytes", "The same, what clones share counted once among them", static_cast<double>(vmm.proportional_bytes()));
  writer->Gauge("vm_vmm_threads", "Threads of the VMM", static_cast<double>(vmm.threads()));
}

void AddGuest(const guest::v1::MetricsResponse& guest, Writer* writer) {
  writer->Gauge("vm_guest_memory_total_bytes", "Memory that the guest's kernel has", static_cast<double>(guest.memory_total_bytes()));
  writer->Gauge("vm_guest_memory_available_bytes", "Memory that the guest's kernel could give", static_cast<double>(guest.memory_available_bytes()));
  writer->Gauge("vm_guest_balloon_bytes", "Memory that a balloon has taken back from the guest", static_cast<double>(guest.balloon_bytes()));
  const std::pair<const char*, uint64_t> modes[] = {{"user", guest.user_nanos()},     {"system", guest.system_nanos()}, {"idle", guest.idle_nanos()},
                                                    {"iowait", guest.iowait_nanos()}, {"irq", guest.irq_nanos()},       {"steal", guest.steal_nanos()}};
  for (auto [mode, nanos] : modes) {
    writer->Labelled(Reading::kCounter, "vm_guest_cpu_seconds_total", "CPU time as the guest's kernel counts it", "mode", mode, Seconds(nanos));
  }
  const std::pair<const char*, uint32_t> loads[] = {{"1", guest.load1()}, {"5", guest.load5()}, {"15", guest.load15()}};
  for (auto [minutes, load] : loads) {
    writer->Labelled(Reading::kGauge, "vm_guest_load", "Load average of the guest", "minutes", minutes, load / 100.0);
  }
  writer->Gauge("vm_guest_threads", "Threads in the guest, the kernel's too", static_cast<double>(guest.threads()));
  writer->Gauge("vm_guest_threads_runnable", "Of them those that run or wait for a processor", static_cast<double>(guest.runnable()));
  writer->Counter("vm_guest_uptime_seconds_total", "Time since the guest's kernel began, in a template perhaps", Seconds(guest.uptime_nanos()));
  writer->Gauge("vm_agent_resident_memory_bytes", "Memory of the agent that is resident", static_cast<double>(guest.agent_resident_bytes()));
  writer->Counter("vm_agent_cpu_seconds_total", "CPU time of the agent", Seconds(guest.agent_cpu_nanos()));
}

void AddCalls(const pod::v1::VmMetricsResponse& figures, Writer* writer) {
  int left = kMaxMethods;
  for (const auto& call : figures.calls()) {
    if (left-- == 0) return;
    writer->Labelled(Reading::kSummary, "vm_agent_rpc_seconds", "Time that calls to the agent took", "method", call.method(), Seconds(call.nanos()), call.count());
    writer->Labelled(Reading::kCounter, "vm_agent_rpc_failures_total", "Calls to the agent that failed", "method", call.method(),
                     static_cast<double>(call.failures()));
  }
}

}  // namespace

std::vector<Reading> VmReadings(const PodRecord& pod, const pod::v1::VmMetricsResponse& figures) {
  Writer writer(pod);
  if (figures.start_nanos() > 0) {
    writer.Labelled(Reading::kGauge, "vm_start_seconds", "Time from the VMM's start to the agent's first word", "how", figures.cloned() ? "clone" : "boot",
                    static_cast<double>(figures.start_nanos()) / kNanos);
  }
  if (figures.has_vmm()) AddVmm(figures.vmm(), &writer);
  if (figures.has_companion()) {
    writer.Gauge("vm_companion_resident_memory_bytes", "Memory of the companion that is resident", static_cast<double>(figures.companion().resident_bytes()));
    writer.Counter("vm_companion_cpu_seconds_total", "CPU time of the companion", Seconds(figures.companion().cpu_nanos()));
  }
  writer.Gauge("vm_guest_answers", "1: the guest's agent has answered this question", figures.has_guest() ? 1 : 0);
  if (figures.has_guest()) AddGuest(figures.guest(), &writer);
  AddCalls(figures, &writer);
  return std::move(writer).Take();
}

std::vector<Reading> ReadVms(PodIndex& pods) {
  std::map<std::string, std::shared_ptr<const PodRecord>> records;
  ShimsOfPods shims;
  for (const PodPtr& pod : pods.List()) {
    auto record = pod->Get();
    auto shim = pod->shim();
    if (!record->has_vm() || record->state() != runtime::v1::SANDBOX_READY || !shim) continue;
    shims[record->id()] = std::move(shim);
    records[record->id()] = std::move(record);
  }
  std::vector<Reading> readings;
  if (shims.empty()) return readings;
  for (const auto& [id, payload] : AskCompanions(shims, "VmMetrics", pod::v1::VmMetricsRequest().SerializeAsString(), kFiguresMillis)) {
    pod::v1::VmMetricsResponse figures;
    if (!figures.ParseFromString(payload)) continue;
    auto of_pod = VmReadings(*records[id], figures);
    readings.insert(readings.end(), std::make_move_iterator(of_pod.begin()), std::make_move_iterator(of_pod.end()));
  }
  return readings;
}

}  // namespace caisson::cri

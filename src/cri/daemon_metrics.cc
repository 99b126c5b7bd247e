// SPDX-License-Identifier: Apache-2.0
#include "cri/daemon_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <iterator>
#include <map>
#include <utility>

#include "cri/version.h"
#include "sys/path.h"
#include "sys/proc_text.h"

namespace caisson::cri {
namespace {

constexpr size_t kThreads = 1;
constexpr size_t kStatusBytes = 64 << 10;  // /proc/self/status
constexpr double kNanos = 1e9;

const prometheus::Histogram::BucketBoundaries& Buckets() {
  static const prometheus::Histogram::BucketBoundaries seconds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                                  0.5,   1,      2.5,   5,    10,    30,   60};
  return seconds;
}

prometheus::MetricType TypeOf(Reading::Kind kind) {
  if (kind == Reading::kCounter) return prometheus::MetricType::Counter;
  return kind == Reading::kSummary ? prometheus::MetricType::Summary : prometheus::MetricType::Gauge;
}

// What nobody counts, but can be asked for.
class Asked : public prometheus::Collectable {
 public:
  explicit Asked(std::function<std::vector<Reading>()> readings) : readings_(std::move(readings)) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    std::map<std::string, size_t> known;
    for (Reading& reading : readings_()) {
      auto [at, first] = known.try_emplace("caisson_" + reading.name, families.size());
      if (first) families.push_back({at->first, std::move(reading.help), TypeOf(reading.kind), {}});
      prometheus::ClientMetric& metric = families[at->second].metric.emplace_back();
      for (auto& [key, value] : reading.labels) metric.label.push_back({std::move(key), std::move(value)});
      metric.gauge.value = metric.counter.value = metric.summary.sample_sum = reading.number;
      metric.summary.sample_count = reading.count;
    }
    return families;
  }

 private:
  const std::function<std::vector<Reading>()> readings_;
};

}  // namespace

struct DaemonMetrics::State {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  std::shared_ptr<prometheus::Collectable> asked;
  prometheus::Family<prometheus::Histogram>& rpcs =
      prometheus::BuildHistogram().Name("caisson_rpc_seconds").Help("Time that verbs of the CRI took").Register(*registry);
  prometheus::Family<prometheus::Histogram>& steps =
      prometheus::BuildHistogram().Name("caisson_step_seconds").Help("Time that steps of operations took").Register(*registry);
  prometheus::Family<prometheus::Counter>& strays = prometheus::BuildCounter()
                                                        .Name("caisson_strays_total")
                                                        .Help("Processes that a daemon's death left behind, found and ended")
                                                        .Register(*registry);
  prometheus::Family<prometheus::Counter>& vm_starts =
      prometheus::BuildCounter().Name("caisson_vm_starts_total").Help("VM pods that have started, by how").Register(*registry);
  prometheus::Family<prometheus::Counter>& templates =
      prometheus::BuildCounter().Name("caisson_templates_total").Help("Templates of VMs, by what became of them").Register(*registry);
  std::unique_ptr<prometheus::Exposer> exposer;  // last: its threads use the others
};

DaemonMetrics::DaemonMetrics() : state_(std::make_unique<State>()) {}
DaemonMetrics::~DaemonMetrics() = default;

Result<std::unique_ptr<DaemonMetrics>> DaemonMetrics::Start(const std::string& address, std::function<std::vector<Reading>()> readings) {
  std::unique_ptr<DaemonMetrics> metrics(new DaemonMetrics());
  State& state = *metrics->state_;
  state.asked = std::make_shared<Asked>(std::move(readings));
  prometheus::BuildGauge()
      .Name("caisson_build_info")
      .Help("1, with the version")
      .Register(*state.registry)
      .Add({{"version", kVersion}})
      .Set(1);
  // The library's errors are exceptions.
  try {
    state.exposer = std::make_unique<prometheus::Exposer>(address, kThreads);
    state.exposer->RegisterCollectable(state.registry);
    state.exposer->RegisterCollectable(state.asked);
  } catch (const std::exception& error) {
    return MakeError(Code::kUnavailable, "cannot serve metrics on '{}' ({}); see 'metrics.address'", address, error.what());
  }
  return metrics;
}

int DaemonMetrics::port() const {
  auto ports = state_->exposer->GetListeningPorts();
  return ports.empty() ? 0 : ports.front();
}

void DaemonMetrics::CountRpc(std::string_view verb, std::string_view code, int64_t nanos) {
  state_->rpcs.Add({{"verb", std::string(verb)}, {"code", std::string(code)}}, Buckets()).Observe(static_cast<double>(nanos) / kNanos);
}

void DaemonMetrics::CountStep(std::string_view operation, std::string_view step, bool good, int64_t nanos) {
  state_->steps
      .Add({{"operation", std::string(operation)}, {"step", std::string(step)}, {"result", good ? "ok" : "failed"}}, Buckets())
      .Observe(static_cast<double>(nanos) / kNanos);
}

void DaemonMetrics::CountStray(std::string_view kind) { state_->strays.Add({{"kind", std::string(kind)}}).Increment(); }

void DaemonMetrics::CountVmStart(std::string_view how) { state_->vm_starts.Add({{"how", std::string(how)}}).Increment(); }

void DaemonMetrics::CountTemplate(std::string_view outcome) { state_->templates.Add({{"outcome", std::string(outcome)}}).Increment(); }

std::vector<Reading> ProcessReadings() {
  std::vector<Reading> readings;
  auto add = [&](const char* name, const char* help, uint64_t number) { readings.push_back({name, help, {}, static_cast<double>(number)}); };
  if (auto status = sys::ReadFile("/proc/self/status", kStatusBytes)) {
    add("process_resident_memory_bytes", "Memory of the daemon that is resident", sys::ProcNumber(*status, "VmRSS:") << 10);
    add("process_threads", "Threads of the daemon", sys::ProcNumber(*status, "Threads:"));
  }
  std::error_code error;
  std::filesystem::directory_iterator descriptors("/proc/self/fd", error), end;
  if (!error) add("process_open_fds", "Open descriptors of the daemon", static_cast<uint64_t>(std::distance(descriptors, end)));
  return readings;
}

}  // namespace caisson::cri

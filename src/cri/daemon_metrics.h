// SPDX-License-Identifier: Apache-2.0
//
// DaemonMetrics: how long the daemon's own work takes and how much there is of it, for Prometheus, at /metrics of one HTTP
// address. What is known of pods it is told: vm_readings.h; for the kubelet pod_metrics.h. Thread-safe; it outlives every RPC.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace caisson::cri {

// A number that is read when somebody asks: caisson_<name>{<key>="<value>",…}.
struct Reading {
  enum Kind { kGauge, kCounter, kSummary };
  std::string name, help;
  std::vector<std::pair<std::string, std::string>> labels;
  double number = 0;   // of a summary: the sum
  Kind kind = kGauge;  // the same for all of a name
  uint64_t count = 0;  // of a summary
};

class DaemonMetrics {
 public:
  // Serves on `address`, "127.0.0.1:9465" or "[::1]:9465"; port 0: any. `readings` is called, on a thread of the server's, for
  // each scrape. Errors: kUnavailable when it cannot listen there.
  static Result<std::unique_ptr<DaemonMetrics>> Start(const std::string& address, std::function<std::vector<Reading>()> readings);
  ~DaemonMetrics();

  // The port that it listens on.
  int port() const;

  // A verb of the CRI that has been answered, with the name of gRPC's code.
  void CountRpc(std::string_view verb, std::string_view code, int64_t nanos);
  // A step of an operation (steps.h).
  void CountStep(std::string_view operation, std::string_view step, bool good, int64_t nanos);
  // What a daemon's death left behind and recovery has found and removed: "companion", "plugin".
  void CountStray(std::string_view kind);
  // A VM pod that has started: "clone", "warm", "boot", or "fallback", which booted because its clone failed.
  void CountVmStart(std::string_view how);
  // What became of a template: "made", "failed", "evicted".
  void CountTemplate(std::string_view outcome);

 private:
  DaemonMetrics();
  struct State;
  std::unique_ptr<State> state_;
};

// Memory, descriptors and threads of this process, of proc(5), without a label.
std::vector<Reading> ProcessReadings();

}  // namespace caisson::cri

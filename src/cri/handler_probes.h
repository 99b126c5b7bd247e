// SPDX-License-Identifier: Apache-2.0
//
// HandlerProbes: whether handlers with runtimes of other projects work on this host. For each a pod is run once, with a companion and
// a network namespace and one container of the companion's own program that ends with a known status; what the daemon says of
// the handler before that, and after a failure, is why it is not ready. A handler that has worked is taken to go on working; one
// that has failed is tried again, ever more rarely. Thread-safe; a thread for each such handler.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cri/context.h"
#include "cri/daemon_metrics.h"

namespace caisson::cri {

class HandlerProbes {
 public:
  // `context` outlives it.
  explicit HandlerProbes(Context& context) : context_(context) {}
  ~HandlerProbes() { Stop(); }

  void Start();
  // Waits for a probe that is under way, which has a deadline.
  void Stop();
  // Of a handler that is foreign: kUnavailable with the reason unless a probe pod has run.
  Result<> Check(const std::string& handler) const;
  // caisson_handler_ready{handler,reason}: 1 or 0, and then why.
  std::vector<Reading> Read() const;

 private:
  struct State {
    bool ready = false;
    std::string reason = "its probe pod has not run yet";
  };
  void Run(const std::string& handler);
  Result<> Probe(const std::string& handler);

  Context& context_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::map<std::string, State> states_;  // by handler
  std::vector<std::thread> threads_;
};

}  // namespace caisson::cri

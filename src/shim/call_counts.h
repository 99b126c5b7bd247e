// SPDX-License-Identifier: Apache-2.0
//
// CallCounts: how often each method of the agent was called, and how long the answers took. Methods that answer when something
// happens in a container (a process ends or writes) are not counted: their time says nothing of the agent. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "caisson/pod/v1/pod.pb.h"

namespace caisson::shim {

class CallCounts {
 public:
  // A call under way; of one that is not counted `count` is null.
  struct Call {
    pod::v1::CallFigures* count = nullptr;
    int64_t begin_nanos = 0;
  };

  // `service` with its package ("containerd.task.v3.Task"), of which the last word is kept. The names are the companion's own.
  Call Begin(std::string_view service, std::string_view method);
  static void End(const Call& call, bool good);
  void Fill(pod::v1::VmMetricsResponse* response) const;

 private:
  std::map<std::string, pod::v1::CallFigures> counts_;
};

}  // namespace caisson::shim

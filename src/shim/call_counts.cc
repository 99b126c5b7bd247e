// SPDX-License-Identifier: Apache-2.0
#include "shim/call_counts.h"

#include <algorithm>

#include "base/clock.h"

namespace caisson::shim {
namespace {

// An answer to these waits for a container's process, or for who listens in it.
constexpr std::string_view kWaiting[] = {"Wait", "ExecSync", "ExecSyncMore", "ReadOutput", "WriteInput", "Dial", "ReadStream", "WriteStream"};

}  // namespace

CallCounts::Call CallCounts::Begin(std::string_view service, std::string_view method) {
  if (std::find(std::begin(kWaiting), std::end(kWaiting), method) != std::end(kWaiting)) return {};
  std::string name(service.substr(service.rfind('.') + 1));
  name.append(".").append(method);
  pod::v1::CallFigures& count = counts_[name];
  if (count.method().empty()) count.set_method(std::move(name));
  return {&count, MonotonicNanos()};
}

void CallCounts::End(const Call& call, bool good) {
  if (call.count == nullptr) return;
  call.count->set_count(call.count->count() + 1);
  if (!good) call.count->set_failures(call.count->failures() + 1);
  call.count->set_nanos(call.count->nanos() + static_cast<uint64_t>(std::max<int64_t>(0, MonotonicNanos() - call.begin_nanos)));
}

void CallCounts::Fill(pod::v1::VmMetricsResponse* response) const {
  for (const auto& [name, count] : counts_) {
    if (count.count() > 0) *response->add_calls() = count;
  }
}

}  // namespace caisson::shim

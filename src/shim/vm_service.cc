// SPDX-License-Identifier: Apache-2.0
#include "shim/vm_service.h"

#include <unistd.h>

#include <utility>

#include "sys/process_use.h"

namespace caisson::shim {
namespace {

void Fill(const sys::ProcessUse& use, pod::v1::ProcessFigures* to) {
  to->set_cpu_nanos(use.cpu_nanos);
  to->set_resident_bytes(use.resident_bytes);
  to->set_proportional_bytes(use.proportional_bytes);
  to->set_threads(use.threads);
}

}  // namespace

void VmService::SetStart(int64_t nanos, bool cloned) {
  start_nanos_ = nanos;
  cloned_ = cloned;
}

void VmService::Metrics(Respond respond) {
  waiting_.push_back(std::move(respond));
  if (asking_) return late_ ? Answer(nullptr) : void();
  asking_ = true;
  client_->Call<guest::v1::MetricsResponse>(guest_service::kGuest, "Metrics", guest::v1::MetricsRequest(), ttrpc::Client::kNoTimeout,
                                            [this](Result<guest::v1::MetricsResponse> guest) {
                                              asking_ = late_ = false;
                                              loop_->CancelTimer(std::exchange(timer_, 0));
                                              Answer(guest ? &*guest : nullptr);
                                            });
  if (!asking_) return;
  timer_ = loop_->After(kGuestMillis, [this] {
    timer_ = 0;
    late_ = true;
    Answer(nullptr);
  });
}

void VmService::Answer(const guest::v1::MetricsResponse* guest) {
  auto waiting = std::exchange(waiting_, {});
  if (waiting.empty()) return;
  pod::v1::VmMetricsResponse response;
  if (guest != nullptr) *response.mutable_guest() = *guest;
  if (auto use = vm_ != nullptr ? vm_->Metrics() : MakeError(Code::kUnavailable, "there is no VMM")) Fill(*use, response.mutable_vmm());
  if (auto use = sys::ReadProcessUse(getpid())) Fill(*use, response.mutable_companion());
  response.set_start_nanos(start_nanos_);
  response.set_cloned(cloned_);
  client_->counts().Fill(&response);
  for (auto& respond : waiting) respond(response);
}

Result<pod::v1::ConsoleResponse> VmService::Console(const pod::v1::ConsoleRequest& request) {
  if (vm_ == nullptr) return MakeError(Code::kUnavailable, "the pod's VM has not been started");
  vmm::ConsolePart part = vm_->Console(request.from());
  pod::v1::ConsoleResponse response;
  response.set_text(std::move(part.text));
  response.set_end(part.end);
  return response;
}

void VmService::Register(ttrpc::Server* server) {
  server->HandleTyped<pod::v1::VmMetricsRequest, pod::v1::VmMetricsResponse>(
      guest_service::kPod, "VmMetrics", [this](const auto&, auto respond) { Metrics(std::move(respond)); });
  server->HandleTyped<pod::v1::ConsoleRequest, pod::v1::ConsoleResponse>(
      guest_service::kPod, "Console", [this](const auto& request, auto respond) { respond(Console(request)); });
}

}  // namespace caisson::shim

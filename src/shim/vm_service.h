// SPDX-License-Identifier: Apache-2.0
//
// VmService: what caissond asks a companion of the machine rather than of its containers: its figures, its console
// (caisson.pod.v1.Pod: VmMetrics, Console). The guest is asked for figures once at a time and waited for kGuestMillis; one that owes
// an answer since an earlier question is left out at once. One thread, the loop's.
#pragma once

#include <functional>
#include <vector>

#include "base/result.h"
#include "caisson/guest/v1/guest.pb.h"
#include "caisson/pod/v1/pod.pb.h"
#include "shim/guest_client.h"
#include "sys/event_loop.h"
#include "ttrpc/server.h"
#include "vmm/vm.h"

namespace caisson::shim {

class VmService {
 public:
  static constexpr int64_t kGuestMillis = 1'000;

  // Both outlive it.
  VmService(sys::EventLoop* loop, GuestClient* client) : loop_(loop), client_(client) {}

  // Before the server listens; it outlives the server.
  void Register(ttrpc::Server* server);
  // Null: there is none.
  void SetVm(vmm::Vm* vm) { vm_ = vm; }
  // The agent has said its first word, so long after the VMM's start.
  void SetStart(int64_t nanos, bool cloned);

 private:
  using Respond = std::function<void(Result<pod::v1::VmMetricsResponse>)>;

  void Metrics(Respond respond);
  // To all who wait; null: the guest has not answered.
  void Answer(const guest::v1::MetricsResponse* guest);
  Result<pod::v1::ConsoleResponse> Console(const pod::v1::ConsoleRequest& request);

  sys::EventLoop* loop_;
  GuestClient* client_;
  vmm::Vm* vm_ = nullptr;
  int64_t start_nanos_ = 0;
  bool cloned_ = false;
  bool asking_ = false;  // the guest owes an answer
  bool late_ = false;    // for longer than it was given
  sys::EventLoop::TimerId timer_ = 0;
  std::vector<Respond> waiting_;
};

}  // namespace caisson::shim

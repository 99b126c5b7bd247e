// SPDX-License-Identifier: Apache-2.0
//
// GuestService: caisson.guest.v1.Guest, what a companion asks of the guest itself: making the VM a pod, disks and bundles
// of containers, volumes. What needs rights is done by launchers. One thread, the loop's.
#pragma once

#include <functional>
#include <string>

#include "agent/disks.h"
#include "agent/early_init.h"
#include "agent/launches.h"
#include "agent/shared_folders.h"
#include "agent/streams.h"
#include "agent/volumes.h"
#include "base/result.h"
#include "caisson/guest/v1/guest.pb.h"
#include "sys/event_loop.h"
#include "task/tasks.h"
#include "ttrpc/server.h"

namespace caisson::agent {

class GuestService {
 public:
  // All outlive it.
  GuestService(sys::EventLoop* loop, task::Tasks* tasks, Launches* launches)
      : tasks_(tasks), launches_(launches), disks_(loop, launches), streams_(loop), volumes_(launches), shared_(loop, launches) {}

  Result<> Start();
  // Before the server serves; the service outlives it.
  void Register(ttrpc::Server* server);

 private:
  using PrepareResponse = guest::v1::PrepareContainerResponse;

  Result<guest::v1::HelloResponse> Hello();
  Result<guest::v1::ConfigureResponse> Configure(const guest::v1::ConfigureRequest& request);
  void Prepare(const guest::v1::PrepareContainerRequest& request, std::function<void(Result<PrepareResponse>)> respond);
  void AwaitModules(int64_t left_millis, std::function<void()> done);
  guest::v1::ReleaseContainerResponse Release(const std::string& id);
  void AwaitDisks(const guest::v1::AwaitDisksRequest& request, std::function<void(Result<guest::v1::AwaitDisksResponse>)> respond);
  void RegisterStreams(ttrpc::Server* server);
  void Resize(const guest::v1::ResizeRequest& request, int64_t left_millis, std::function<void(Result<guest::v1::ResizeResponse>)> respond);
  void OpenDebug(std::function<void(Result<guest::v1::OpenDebugResponse>)> respond);

  task::Tasks* tasks_;
  Launches* launches_;
  Disks disks_;
  Streams streams_;
  Volumes volumes_;
  SharedFolders shared_;
  bool configured_ = false;
  const bool debug_ = StartedForDebugging();
};

}  // namespace caisson::agent

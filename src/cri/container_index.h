// SPDX-License-Identifier: Apache-2.0
//
// The containers the daemon knows. A Container is its record (caisson.daemon.v1.ContainerRecord) and a latch for its
// exit. Thread-safe.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "base/clock.h"
#include "caisson/daemon/v1/record.pb.h"
#include "cri/index.h"

namespace caisson::cri {

using ContainerRecord = daemon::v1::ContainerRecord;

class Container : public Entry<ContainerRecord> {
 public:
  using Entry::Entry;
  // Waits until the record says EXITED; false if the deadline passes first.
  bool WaitExited(const Deadline& deadline);
  // Wakes those who wait, after the record was changed.
  void NotifyChanged();
  // Set by the first StopContainer that sent the stop signal: it is sent once.
  std::atomic<bool> stop_signal_sent = false;

 private:
  std::mutex exit_mutex_;
  std::condition_variable exit_changed_;
};

using ContainerPtr = std::shared_ptr<Container>;
using ContainerIndex = Index<Container>;

// The name that is reserved for a container: its pod and metadata.
std::string ContainerName(const std::string& pod_id, const runtime::v1::ContainerMetadata& metadata);
bool Matches(const ContainerRecord& container, const runtime::v1::ContainerFilter& filter);

}  // namespace caisson::cri

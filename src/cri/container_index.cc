// SPDX-License-Identifier: Apache-2.0
#include "cri/container_index.h"

#include <chrono>

#include "cri/pod_index.h"

namespace caisson::cri {

bool Container::WaitExited(const Deadline& deadline) {
  std::unique_lock lock(exit_mutex_);
  return exit_changed_.wait_for(lock, std::chrono::milliseconds(deadline.RemainingMillis()),
                                [this] { return Get()->state() == runtime::v1::CONTAINER_EXITED; });
}

void Container::NotifyChanged() {
  // Taken so that a waiter is either before its look at the record or already asleep.
  std::lock_guard lock(exit_mutex_);
  exit_changed_.notify_all();
}

std::string ContainerName(const std::string& pod_id, const runtime::v1::ContainerMetadata& metadata) {
  return fmt::format("{}_{}_{}", pod_id, metadata.name(), metadata.attempt());
}

bool Matches(const ContainerRecord& container, const runtime::v1::ContainerFilter& filter) {
  if (!filter.id().empty() && !container.id().starts_with(filter.id())) return false;
  if (!filter.pod_sandbox_id().empty() && !container.pod_id().starts_with(filter.pod_sandbox_id())) return false;
  if (filter.has_state() && container.state() != filter.state().state()) return false;
  return MatchesLabels(container.config().labels(), filter.label_selector());
}

}  // namespace caisson::cri

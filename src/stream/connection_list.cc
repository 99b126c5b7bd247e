// SPDX-License-Identifier: Apache-2.0
#include "base/limits.h"
#include "stream/connection.h"

namespace caisson::stream {

bool ConnectionList::MakeRoom() {
  if (fresh_ < limits::kStreamNewConnections && entries_.size() < limits::kStreamConnections) return true;
  for (auto& [id, entry] : entries_) {
    if (!entry.fresh) continue;
    auto abort = entry.abort;
    Remove(id);
    abort();
    return true;
  }
  return false;
}

ConnectionList::Id ConnectionList::Add(std::function<void()> abort) {
  Id id = next_++;
  entries_[id] = {std::move(abort), true};
  ++fresh_;
  size_ = entries_.size();
  return id;
}

void ConnectionList::Promote(Id id, std::function<void()> abort) {
  auto found = entries_.find(id);
  if (found == entries_.end() || !found->second.fresh) return;
  found->second = {std::move(abort), false};
  --fresh_;
}

void ConnectionList::Remove(Id id) {
  auto found = entries_.find(id);
  if (found == entries_.end()) return;
  if (found->second.fresh) --fresh_;
  entries_.erase(found);
  size_ = entries_.size();
}

void ConnectionList::AbortAll() {
  while (!entries_.empty()) {
    auto abort = entries_.begin()->second.abort;
    Remove(entries_.begin()->first);
    abort();
  }
}

}  // namespace caisson::stream

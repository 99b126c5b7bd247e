// SPDX-License-Identifier: Apache-2.0
//
// The pods the daemon knows. A Pod is its record (caisson.daemon.v1.PodRecord) and, while it has one, the connection
// to its companion. Thread-safe.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "caisson/daemon/v1/record.pb.h"
#include "cri/index.h"

namespace caisson::cri {

using PodRecord = daemon::v1::PodRecord;
class ShimClient;

class Pod : public Entry<PodRecord> {
 public:
  using Entry::Entry;
  // The companion's client; null when the pod has none (any more).
  std::shared_ptr<ShimClient> shim() const {
    std::lock_guard lock(shim_mutex_);
    return shim_;
  }
  void set_shim(std::shared_ptr<ShimClient> shim) {
    std::lock_guard lock(shim_mutex_);
    shim_.swap(shim);
  }

 private:
  mutable std::mutex shim_mutex_;
  std::shared_ptr<ShimClient> shim_;
};

using PodPtr = std::shared_ptr<Pod>;
using PodIndex = Index<Pod>;

// The name that is reserved for a pod: the four parts of its metadata.
std::string PodName(const runtime::v1::PodSandboxMetadata& metadata);
bool Matches(const PodRecord& pod, const runtime::v1::PodSandboxFilter& filter);
// True if each pair of `selector` is in `labels`.
bool MatchesLabels(const google::protobuf::Map<std::string, std::string>& labels,
                   const google::protobuf::Map<std::string, std::string>& selector);
bool HostNetwork(const PodRecord& pod);
// Equal for equal messages: tells a repeated request from a different one.
std::string Fingerprint(const google::protobuf::Message& message);

}  // namespace caisson::cri

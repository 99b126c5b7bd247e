// SPDX-License-Identifier: Apache-2.0
//
// CpuRates: how many CPUs each container has used lately, from the growing counts that the stats verbs read anyway.
// Remembers one earlier sample per container; those not asked for are forgotten after a while. Thread-safe.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

namespace caisson::cri {

class CpuRates {
 public:
  // Takes a sample of container `id`: `usage_nanos` of CPU time used until `at_nanos`. Returns nanocores (billionths of a
  // CPU) since an earlier sample, which is at least a second old unless there is none so old; nothing at the first.
  std::optional<uint64_t> Sample(const std::string& id, int64_t at_nanos, uint64_t usage_nanos);

 private:
  struct Earlier {
    int64_t at_nanos = 0;
    uint64_t usage_nanos = 0;
    std::optional<uint64_t> rate;
  };
  std::mutex mutex_;
  std::unordered_map<std::string, Earlier> earlier_;
};

}  // namespace caisson::cri

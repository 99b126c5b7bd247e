// SPDX-License-Identifier: Apache-2.0
#include "base/vm_size.h"

#include <algorithm>
#include <cstring>

#include "base/sha256.h"

namespace caisson {
namespace {
constexpr uint64_t kGuestMemoryStep = uint64_t{32} << 20;
constexpr uint64_t kUsualPeriodMicros = 100'000;  // the kernel's (cgroup v2, "cpu.max")
}  // namespace

uint64_t RoundGuestMemory(uint64_t bytes) { return (bytes + kGuestMemoryStep - 1) / kGuestMemoryStep * kGuestMemoryStep; }

uint64_t GuestMemoryOf(uint64_t limit) { return RoundGuestMemory(std::max(limit + kGuestOverheadBytes + limit / kGuestOverheadPart, kLeastGuestBytes)); }

uint32_t GuestVcpusOf(uint64_t quota, uint64_t period, uint32_t otherwise, uint32_t processors) {
  uint64_t wanted = quota == 0 ? otherwise : (quota - 1) / (period == 0 ? kUsualPeriodMicros : period) + 1;
  return static_cast<uint32_t>(std::clamp<uint64_t>(wanted, 1, std::max<uint32_t>(processors, 1)));
}

uint32_t VmmIdOf(int64_t first, const std::string& pod_id) {
  std::string hash = Sha256(pod_id);
  uint32_t number;
  std::memcpy(&number, hash.data(), sizeof number);
  return static_cast<uint32_t>(first + number % kVmmIds);
}

}  // namespace caisson

// SPDX-License-Identifier: Apache-2.0
//
// What machine a pod gets unless its configuration says otherwise, and how large: the same for a pod of caissond's and for one that
// another client has the companion make. Pure.
#pragma once

#include <cstdint>
#include <string>

namespace caisson {

// Where the package caisson-guest puts them.
inline constexpr char kGuestKernel[] = "/usr/lib/caisson/guest/kernel", kGuestInitrd[] = "/usr/lib/caisson/guest/initramfs";
// Of a pod without limits.
inline constexpr uint32_t kVmVcpus = 1;
inline constexpr int64_t kVmMemoryBytes = 512 << 20;
// Each pod's VMM runs as a user and group of its own, of so many from the first on.
inline constexpr int64_t kFirstVmmId = 1'900'000'000, kVmmIds = 1 << 27;
// What a guest's kernel and agent take of its memory, so that the pod has its whole limit: 74 MiB were measured of 128, 83
// of 320, 87 of 512 (Debian's cloud kernel 6.1: itself, its initramfs, slabs, a page's structure for each page).
inline constexpr uint64_t kGuestOverheadBytes = uint64_t{80} << 20, kGuestOverheadPart = 40;
// A guest with less does not boot.
inline constexpr uint64_t kLeastGuestBytes = uint64_t{128} << 20;

// The memory of a machine whose pod may use `limit` bytes; whole steps, so that pods of nearly the same size have the same machine.
uint64_t GuestMemoryOf(uint64_t limit);
// `bytes` rounded up to such a step.
uint64_t RoundGuestMemory(uint64_t bytes);
// The processors of one whose pod may use `quota` of each `period` of time (0: 100 ms), on a host that has `processors`. Quota 0: `otherwise`.
uint32_t GuestVcpusOf(uint64_t quota, uint64_t period, uint32_t otherwise, uint32_t processors);
// The user and group of a pod's VMM: the same for the same pod, most probably different for different ones.
uint32_t VmmIdOf(int64_t first, const std::string& pod_id);

}  // namespace caisson

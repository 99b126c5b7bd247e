// SPDX-License-Identifier: Apache-2.0
#include "base/vm_size.h"

#include <gtest/gtest.h>

#include <set>

namespace caisson {
namespace {

TEST(VmSize, MemoryIsTheLimitWithTheGuestsOwnInWholeSteps) {
  constexpr uint64_t kMiB = 1 << 20;
  EXPECT_EQ(GuestMemoryOf(1), kLeastGuestBytes);
  EXPECT_EQ(GuestMemoryOf(256 * kMiB), 352 * kMiB);
  EXPECT_EQ(GuestMemoryOf(257 * kMiB), 352 * kMiB);
  EXPECT_EQ(RoundGuestMemory(512 * kMiB), 512 * kMiB);
  EXPECT_EQ(RoundGuestMemory(512 * kMiB + 1), 544 * kMiB);
}

TEST(VmSize, ProcessorsForTheQuotaAsFarAsTheHostHasThem) {
  EXPECT_EQ(GuestVcpusOf(0, 0, 1, 8), 1u);
  EXPECT_EQ(GuestVcpusOf(0, 0, 4, 2), 2u);
  EXPECT_EQ(GuestVcpusOf(50'000, 100'000, 4, 8), 1u);
  EXPECT_EQ(GuestVcpusOf(150'000, 100'000, 1, 8), 2u);
  EXPECT_EQ(GuestVcpusOf(150'000, 0, 1, 8), 2u);
  EXPECT_EQ(GuestVcpusOf(UINT64_MAX, 1, 1, 8), 8u);
  EXPECT_EQ(GuestVcpusOf(1, 1, 1, 0), 1u);
}

TEST(VmSize, EachVmmHasAUserOfItsOwn) {
  std::set<uint32_t> ids;
  for (int i = 0; i < 200; ++i) ids.insert(VmmIdOf(kFirstVmmId, "pod" + std::to_string(i)));
  EXPECT_GT(ids.size(), 195u);
  EXPECT_GE(*ids.begin(), kFirstVmmId);
  EXPECT_LT(*ids.rbegin(), kFirstVmmId + kVmmIds);
}

}  // namespace
}  // namespace caisson

// SPDX-License-Identifier: Apache-2.0
#include "cri/resident.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace caisson::cri {
namespace {

constexpr size_t kSize = 64 << 12;

// A file of kSize bytes 'f' without a name, on a file system of the disk's kind.
UniqueFd MakeFile() {
  char path[] = "./resident-test-XXXXXX";
  UniqueFd fd(mkstemp(path));
  unlink(path);
  std::string data(kSize, 'f');
  EXPECT_EQ(write(fd.get(), data.data(), kSize), static_cast<ssize_t>(kSize));
  return fd;
}

size_t ResidentKib(const void* address) {
  char head[32];
  snprintf(head, sizeof head, "%lx-", reinterpret_cast<unsigned long>(address));
  std::ifstream smaps("/proc/self/smaps");
  bool found = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.rfind(head, 0) == 0) found = true;
    else if (found && line.rfind("Rss:", 0) == 0) return std::stoul(line.substr(4));
  }
  ADD_FAILURE() << "no mapping at " << address;
  return 0;
}

struct Mapped {
  explicit Mapped(int fd) : data(static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0))) {}
  ~Mapped() { munmap(data, kSize); }
  bool ReadOnly() { return mprotect(data, kSize, PROT_READ) == 0; }
  size_t Count(char c) const {
    size_t n = 0;
    for (size_t i = 0; i < kSize; ++i) n += data[i] == c;
    return n;
  }
  std::vector<AddressRange> Range() const {
    auto begin = reinterpret_cast<uintptr_t>(data);
    return {{begin, begin + kSize}};
  }
  char* data;
};

TEST(ReleaseUnused, LetsGoOfPagesThatWereOnlyRead) {
  UniqueFd fd = MakeFile();
  Mapped mapped(fd.get());
  ASSERT_TRUE(mapped.ReadOnly());
  ASSERT_EQ(mapped.Count('f'), kSize);
  ASSERT_EQ(ResidentKib(mapped.data), kSize / 1024);
  EXPECT_EQ(ReleaseUnused(mapped.Range()), kSize);
  EXPECT_EQ(ResidentKib(mapped.data), 0u);
  EXPECT_EQ(mapped.Count('f'), kSize);
}

// As the loader does with relocations: written, then made read-only.
TEST(ReleaseUnused, KeepsWhatWasWrittenBeforeItBecameReadOnly) {
  UniqueFd fd = MakeFile();
  Mapped mapped(fd.get());
  memset(mapped.data + 4096, 'w', 4096);
  ASSERT_TRUE(mapped.ReadOnly());
  ReleaseUnused(mapped.Range());
  EXPECT_EQ(mapped.Count('w'), 4096u);
}

TEST(ReleaseUnused, KeepsWhatIsWrittenToAWritableMapping) {
  UniqueFd fd = MakeFile();
  Mapped mapped(fd.get());
  memset(mapped.data, 'w', kSize);
  ReleaseUnused(mapped.Range());
  EXPECT_EQ(mapped.Count('w'), kSize);
}

TEST(ReleaseUnused, KeepsWhatIsNotNamed) {
  UniqueFd fd = MakeFile();
  Mapped mapped(fd.get());
  ASSERT_TRUE(mapped.ReadOnly());
  ASSERT_EQ(mapped.Count('f'), kSize);
  std::vector<AddressRange> half = mapped.Range();
  half[0].end -= kSize / 2;
  EXPECT_EQ(ReleaseUnused(half), 0u);
  EXPECT_EQ(ResidentKib(mapped.data), kSize / 1024);
}

TEST(LoadedReadOnly, HoldsCodeAndNoData) {
  static int data = 1;
  auto holds = [ranges = LoadedReadOnly()](uintptr_t at) {
    return std::any_of(ranges.begin(), ranges.end(), [&](const AddressRange& r) { return r.begin <= at && at < r.end; });
  };
  EXPECT_TRUE(holds(reinterpret_cast<uintptr_t>(&MakeFile)));
  EXPECT_TRUE(holds(reinterpret_cast<uintptr_t>(&qsort)));
  EXPECT_FALSE(holds(reinterpret_cast<uintptr_t>(&data)));
  EXPECT_GT(ReleaseUnused(LoadedReadOnly()), 0u);
}

TEST(Quiet, IsDueOnceAfterRpcsHaveEnded) {
  Quiet quiet;
  EXPECT_FALSE(quiet.Due(0));
  EXPECT_FALSE(quiet.Due(5));  // some came since the last tick
  EXPECT_TRUE(quiet.Due(5));
  EXPECT_FALSE(quiet.Due(5));  // nothing to release again
  EXPECT_FALSE(quiet.Due(6));
  EXPECT_TRUE(quiet.Due(6));
}

TEST(Quiet, IsDueInTheEndThoughAClientAsksAllTheTime) {
  Quiet quiet;
  int due = 0;
  for (int tick = 1; tick <= 2 * Quiet::kTicks; ++tick) due += quiet.Due(static_cast<uint64_t>(tick));
  EXPECT_EQ(due, 2);
}

}  // namespace
}  // namespace caisson::cri

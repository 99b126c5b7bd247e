// SPDX-License-Identifier: Apache-2.0
#include "cri/resident.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

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
  char* data;
};

TEST(ReleaseUnused, LetsGoOfPagesThatWereOnlyRead) {
  UniqueFd fd = MakeFile();
  Mapped mapped(fd.get());
  ASSERT_TRUE(mapped.ReadOnly());
  ASSERT_EQ(mapped.Count('f'), kSize);
  ASSERT_EQ(ResidentKib(mapped.data), kSize / 1024);
  EXPECT_GE(ReleaseUnused(), kSize);
  EXPECT_EQ(ResidentKib(mapped.data), 0u);
  EXPECT_EQ(mapped.Count('f'), kSize);
}

// As the loader does with relocations: written, then made read-only.
TEST(ReleaseUnused, KeepsWhatWasWrittenBeforeItBecameReadOnly) {
  UniqueFd fd = MakeFile();
  Mapped mapped(fd.get());
  memset(mapped.data + 4096, 'w', 4096);
  ASSERT_TRUE(mapped.ReadOnly());
  ReleaseUnused();
  EXPECT_EQ(mapped.Count('w'), 4096u);
}

TEST(ReleaseUnused, KeepsWhatIsWrittenToAWritableMapping) {
  UniqueFd fd = MakeFile();
  Mapped mapped(fd.get());
  memset(mapped.data, 'w', kSize);
  ReleaseUnused();
  EXPECT_EQ(mapped.Count('w'), kSize);
}

}  // namespace
}  // namespace caisson::cri

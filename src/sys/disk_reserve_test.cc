// SPDX-License-Identifier: Apache-2.0
#include "sys/disk_reserve.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

namespace caisson::sys {
namespace {

class DiskReserveTest : public testing::Test {
 protected:
  DiskReserveTest() {
    std::string folder = testing::TempDir() + "reserve-XXXXXX";
    folder_ = mkdtemp(folder.data());
  }
  ~DiskReserveTest() override { std::filesystem::remove_all(folder_); }

  uint64_t Taken() const {
    struct stat info {};
    return stat(Path().c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * 512 : 0;
  }
  std::string Path() const { return folder_ + "/reserve"; }

  std::string folder_;
};

TEST_F(DiskReserveTest, TakesRoomAndGivesItBack) {
  DiskReserve reserve(Path(), 1 << 20);
  EXPECT_FALSE(reserve.Spend());
  reserve.Fill();
  EXPECT_TRUE(reserve.filled());
  EXPECT_GE(Taken(), uint64_t{1} << 20);
  EXPECT_TRUE(reserve.Spend());
  EXPECT_FALSE(reserve.filled());
  EXPECT_FALSE(std::filesystem::exists(Path()));
}

TEST_F(DiskReserveTest, FindsTheOneOfItsPredecessor) {
  DiskReserve(Path(), 1 << 20).Fill();
  DiskReserve reserve(Path(), 1 << 20);
  reserve.Fill();
  EXPECT_TRUE(reserve.filled());
  EXPECT_TRUE(reserve.Spend());
}

TEST_F(DiskReserveTest, AnEmptyFileIsNoReserve) {
  std::ofstream(Path()).close();
  DiskReserve reserve(Path(), 1 << 20);
  reserve.Fill();
  EXPECT_GE(Taken(), uint64_t{1} << 20);
}

TEST_F(DiskReserveTest, WithoutRoomThereIsNoneAndNoFile) {
  DiskReserve missing(folder_ + "/no/such/folder/reserve", 1 << 20);
  missing.Fill();
  EXPECT_FALSE(missing.filled());
  // More than any file system has.
  DiskReserve huge(Path(), size_t{1} << 62);
  huge.Fill();
  EXPECT_FALSE(huge.filled());
  EXPECT_FALSE(std::filesystem::exists(Path()));
}

}  // namespace
}  // namespace caisson::sys

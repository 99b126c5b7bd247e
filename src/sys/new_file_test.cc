// SPDX-License-Identifier: Apache-2.0
#include "sys/new_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "sys/path.h"

namespace caisson::sys {
namespace {

TEST(WriteNewFileTest, IsWholeAndItsOwnersAlone) {
  std::string folder = testing::TempDir() + "caisson-new-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/file", text(300'000, 'x');
  ASSERT_TRUE(WriteNewFile(path, text));
  EXPECT_EQ(ReadFile(path, 1 << 20).value_or(""), text);
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);

  EXPECT_FALSE(WriteNewFile(path, "other")) << "it was there";
  EXPECT_EQ(ReadFile(path, 1 << 20).value_or(""), text);
  ASSERT_EQ(symlink((folder + "/elsewhere").c_str(), (folder + "/link").c_str()), 0);
  EXPECT_FALSE(WriteNewFile(folder + "/link", "text"));
  EXPECT_FALSE(std::filesystem::exists(folder + "/elsewhere"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace caisson::sys

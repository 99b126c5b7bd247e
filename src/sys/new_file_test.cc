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

TEST(ReplaceFileTest, IsTheOldOneOrTheNewOne) {
  std::string folder = testing::TempDir() + "caisson-replace-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/file";
  ASSERT_TRUE(ReplaceFile(path, "first", 0600));
  ASSERT_TRUE(ReplaceFile(path, "second", 0400));
  EXPECT_EQ(ReadFile(path, 100).value_or(""), "second");
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0400u);

  // A folder in its place stays, and of the new file nothing does.
  ASSERT_TRUE(std::filesystem::create_directories(folder + "/taken/in"));
  EXPECT_FALSE(ReplaceFile(folder + "/taken", "text"));
  std::filesystem::directory_iterator begin(folder), end;
  EXPECT_EQ(std::distance(begin, end), 2) << "file and taken";
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace caisson::sys

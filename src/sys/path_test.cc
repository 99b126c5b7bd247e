// SPDX-License-Identifier: Apache-2.0
#include "sys/path.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace caisson::sys {
namespace {

namespace fs = std::filesystem;

class Path : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/path.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    top_ = fs::canonical(pattern).string();
    root_ = top_ + "/root";
    outside_ = top_ + "/outside";
    fs::create_directories(root_ + "/a/b");
    fs::create_directory(outside_);
    fd_ = UniqueFd(open(root_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  }
  void TearDown() override { fs::remove_all(top_); }
  static std::string NameOf(const Result<UniqueFd>& fd) {
    return fd ? fs::read_symlink(FdPath(fd->get())).string() : fd.error().message;
  }

  std::string top_, root_, outside_;
  UniqueFd fd_;
};

TEST_F(Path, StaysInTheRoot) {
  fs::create_symlink(outside_, root_ + "/absolute");
  fs::create_symlink("../../../../../../../..", root_ + "/climbs");
  EXPECT_FALSE(OpenInRoot(fd_.get(), "/absolute", O_PATH));
  EXPECT_EQ(NameOf(OpenInRoot(fd_.get(), "/climbs", O_PATH)), root_);
  EXPECT_EQ(NameOf(OpenInRoot(fd_.get(), "/../../../a", O_PATH)), root_ + "/a");
  EXPECT_FALSE(OpenInRootNoLinks(fd_.get(), "/climbs", O_PATH));
}

TEST_F(Path, MakesFoldersThroughLinksInside) {
  fs::create_symlink("/a/b", root_ + "/link");
  EXPECT_EQ(NameOf(MakeDirInRoot(fd_.get(), "/link/c/d", 0700)), root_ + "/a/b/c/d");
  fs::create_symlink("/new/place", root_ + "/dangling");
  EXPECT_EQ(NameOf(MakeDirInRoot(fd_.get(), "/dangling/x", 0755)), root_ + "/new/place/x");
  fs::create_symlink(outside_ + "/made", root_ + "/out");
  EXPECT_EQ(NameOf(MakeDirInRoot(fd_.get(), "/out", 0755)), root_ + outside_ + "/made");
  EXPECT_TRUE(fs::is_empty(outside_));
}

TEST_F(Path, MakesFilesThroughLinksInside) {
  EXPECT_EQ(NameOf(MakeFileInRoot(fd_.get(), "/x/y/file", 0644)), root_ + "/x/y/file");
  fs::create_directory(root_ + "/etc");
  fs::create_symlink("../run/systemd/resolv.conf", root_ + "/etc/resolv.conf");
  EXPECT_EQ(NameOf(MakeFileInRoot(fd_.get(), "/etc/resolv.conf", 0644)), root_ + "/run/systemd/resolv.conf");
  fs::create_symlink(outside_ + "/file", root_ + "/out");
  EXPECT_EQ(NameOf(MakeFileInRoot(fd_.get(), "/out", 0644)), root_ + outside_ + "/file");
  EXPECT_TRUE(fs::is_empty(outside_));
}

TEST_F(Path, LoopsEnd) {
  fs::create_symlink("/two", root_ + "/one");
  fs::create_symlink("/one", root_ + "/two");
  fs::create_symlink("/grow/x", root_ + "/grow");
  EXPECT_FALSE(MakeDirInRoot(fd_.get(), "/one/x", 0755));
  EXPECT_FALSE(MakeFileInRoot(fd_.get(), "/grow", 0644));
  EXPECT_FALSE(MakeDirInRoot(fd_.get(), "/grow", 0755));
}

TEST_F(Path, FilesAreNoFolders) {
  std::ofstream(root_ + "/file") << "x";
  EXPECT_FALSE(MakeDirInRoot(fd_.get(), "/file/x", 0755));
  EXPECT_FALSE(MakeFileInRoot(fd_.get(), std::string("/a\0b", 4), 0644));
  EXPECT_FALSE(MakeDirInRoot(fd_.get(), std::string(5000, 'x'), 0755));
}

TEST_F(Path, ReadsUpToTheLimit) {
  std::ofstream(root_ + "/file") << "12345";
  EXPECT_EQ(*ReadFile(root_ + "/file", 5), "12345");
  auto large = ReadFile(root_ + "/file", 4);
  ASSERT_FALSE(large);
  EXPECT_EQ(large.error().code, Code::kResourceExhausted);
}

TEST(SplitPath, LastComponent) {
  EXPECT_EQ(SplitPath("/a/b/c"), (std::pair<std::string, std::string>("/a/b", "c")));
  EXPECT_EQ(SplitPath("/c"), (std::pair<std::string, std::string>("/", "c")));
  EXPECT_EQ(SplitPath("c"), (std::pair<std::string, std::string>(".", "c")));
}

}  // namespace
}  // namespace caisson::sys

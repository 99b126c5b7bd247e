// SPDX-License-Identifier: Apache-2.0
#include "sys/user.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/limits.h"
#include "base/unique_fd.h"

namespace caisson::sys {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kPasswd[] =
    "root:x:0:0:root:/root:/bin/sh\n"
    "# no entry\n"
    "broken:x:12\n"
    "app:x:1000:1001:App:/home/app:/bin/sh\n"
    "4242:x:0:0::/root:/bin/sh\n"
    "relative:x:7:7::home:/bin/sh\n"
    "huge:x:4294967296:0::/:/bin/sh\n"
    "app:x:0:0:second of the name:/root:/bin/sh\n";
constexpr char kGroup[] =
    "root:x:0:\n"
    "app:x:1001:\n"
    "wheel:x:10:other,app\n"
    "prefix:x:11:application\n"
    "audio:x:29: app ,x\n"
    "broken:x\n"
    "wheel2:x:10:app\n"
    "bad:x:-5:app\n";

Result<User> Resolve(const std::string& user) {
  UserRequest request;
  request.user = user;
  return ResolveUserIn(kPasswd, kGroup, request);
}

TEST(User, NameGivesIdsGroupsAndHome) {
  auto user = Resolve("app");
  ASSERT_TRUE(user) << user.error().message;
  EXPECT_EQ(user->uid, 1000u);
  EXPECT_EQ(user->gid, 1001u);
  EXPECT_EQ(user->home, "/home/app");
  EXPECT_THAT(user->groups, ElementsAre(10u, 29u));
}

TEST(User, NumberFindsItsEntry) {
  auto user = Resolve("1000");
  ASSERT_TRUE(user);
  EXPECT_EQ(user->gid, 1001u);
  EXPECT_THAT(user->groups, ElementsAre(10u, 29u));
  auto stranger = Resolve("555");
  ASSERT_TRUE(stranger);
  EXPECT_EQ(stranger->uid, 555u);
  EXPECT_EQ(stranger->gid, 0u);
  EXPECT_EQ(stranger->home, "/");
}

TEST(User, EmptyIsRoot) {
  auto user = Resolve("");
  ASSERT_TRUE(user);
  EXPECT_EQ(user->uid, 0u);
  EXPECT_EQ(user->home, "/root");
}

TEST(User, DigitsAreNeverAName) {
  auto user = Resolve("4242");
  ASSERT_TRUE(user);
  EXPECT_EQ(user->uid, 4242u);
}

TEST(User, NamedGroupReplacesMemberships) {
  auto user = Resolve("app:wheel");
  ASSERT_TRUE(user);
  EXPECT_EQ(user->gid, 10u);
  EXPECT_THAT(user->groups, IsEmpty());
  EXPECT_EQ(Resolve("app:77")->gid, 77u);
  EXPECT_EQ(Resolve("1000:app")->gid, 1001u);
}

TEST(User, RunAsGroupKeepsMembershipsUnlessStrict) {
  UserRequest request;
  request.user = "app";
  request.gid = 3000;
  request.supplemental = {29, 40};
  auto merged = ResolveUserIn(kPasswd, kGroup, request);
  ASSERT_TRUE(merged);
  EXPECT_EQ(merged->gid, 3000u);
  EXPECT_THAT(merged->groups, ElementsAre(29u, 40u, 10u));
  request.merge_groups = false;
  EXPECT_THAT(ResolveUserIn(kPasswd, kGroup, request)->groups, ElementsAre(29u, 40u));
}

TEST(User, HostileWordsAreRefused) {
  for (const char* bad : {"4294967296", "2147483648", "99999999999:0", "0:99999999999", "-1", "+0", "0:-1", "a b",
                          "a\nb", ":0", "0:", "../root", "18446744073709551616"}) {
    auto user = Resolve(bad);
    ASSERT_FALSE(user) << bad;
    EXPECT_EQ(user.error().code, Code::kInvalidArgument) << bad << ": " << user.error().message;
  }
  for (const char* absent : {"0x0", "nobody", "app:nogroup", "huge", "broken"}) {
    auto user = Resolve(absent);
    ASSERT_FALSE(user) << absent;
    EXPECT_EQ(user.error().code, Code::kNotFound) << absent;
  }
}

TEST(User, HomeThatIsRelativeIsNone) { EXPECT_EQ(HomeOf(7, kPasswd), "/"); }

TEST(User, GroupsAreBounded) {
  std::string group;
  for (size_t i = 0; i <= limits::kUserGroups; ++i)
    group += "g" + std::to_string(i) + ":x:" + std::to_string(i) + ":app\n";
  UserRequest request;
  request.user = "app";
  auto user = ResolveUserIn(kPasswd, group, request);
  ASSERT_FALSE(user);
  EXPECT_EQ(user.error().code, Code::kResourceExhausted);
}

class UserFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/user.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    std::filesystem::create_directory(root_ + "/etc");
    fd_ = UniqueFd(open(root_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) { std::ofstream(root_ + path) << text; }

  std::string root_;
  UniqueFd fd_;
};

TEST_F(UserFiles, MissingFilesAreEmpty) {
  UserRequest request;
  request.user = "5:6";
  auto user = ResolveUser(fd_.get(), request);
  ASSERT_TRUE(user) << user.error().message;
  EXPECT_EQ(user->uid, 5u);
  EXPECT_EQ(user->gid, 6u);
}

// CVE-2026-47262 and kin: the host's file must not be read through a link of the image.
TEST_F(UserFiles, LinkStaysInTheRoot) {
  std::string outside = root_ + ".outside";
  std::ofstream(outside) << "app:x:1:1::/:\n";
  std::filesystem::create_symlink(outside, root_ + "/etc/passwd");
  UserRequest request;
  request.user = "app";
  auto user = ResolveUser(fd_.get(), request);
  std::filesystem::remove(outside);
  ASSERT_FALSE(user);
  EXPECT_EQ(user.error().code, Code::kNotFound);
  Write("/etc/real", kPasswd);
  std::filesystem::remove(root_ + "/etc/passwd");
  std::filesystem::create_symlink("/etc/real", root_ + "/etc/passwd");
  EXPECT_TRUE(ResolveUser(fd_.get(), request));
}

TEST_F(UserFiles, FifoDoesNotBlock) {
  ASSERT_EQ(mkfifo((root_ + "/etc/passwd").c_str(), 0600), 0);
  EXPECT_TRUE(ResolveUser(fd_.get(), UserRequest{}));
}

TEST_F(UserFiles, HugeFileIsRefused) {
  Write("/etc/passwd", "app:");
  ASSERT_EQ(truncate((root_ + "/etc/passwd").c_str(), 100 << 20), 0);
  UserRequest request;
  request.user = "app";
  auto user = ResolveUser(fd_.get(), request);
  ASSERT_FALSE(user);
  EXPECT_EQ(user.error().code, Code::kResourceExhausted);
  EXPECT_THAT(user.error().message, HasSubstr("/etc/passwd"));
}

}  // namespace
}  // namespace caisson::sys

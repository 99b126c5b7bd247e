// SPDX-License-Identifier: Apache-2.0
#include "sys/socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

namespace caisson::sys {
namespace {

class SocketTest : public testing::Test {
 protected:
  SocketTest() {
    char name[] = "/tmp/caisson-socket-XXXXXX";
    dir_ = mkdtemp(name);
  }
  ~SocketTest() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
};

TEST_F(SocketTest, ConnectsAndKnowsThePeer) {
  std::string path = dir_ + "/s";
  auto listener = ListenUnix(path, 0600).value();
  struct stat info;
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  auto client = ConnectUnix(path).value();
  UniqueFd served(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(served);
  EXPECT_EQ(PeerOf(served.get()).value().uid, geteuid());
  EXPECT_EQ(PeerOf(served.get()).value().pid, getpid());
  EXPECT_NE(fcntl(client.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(fcntl(client.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(SocketTest, LongPaths) {
  std::string deep = dir_ + "/" + std::string(100, 'a') + "/" + std::string(100, 'b');
  ASSERT_TRUE(std::filesystem::create_directories(deep));
  auto listener = ListenUnix(deep + "/s").value();
  EXPECT_TRUE(ConnectUnix(deep + "/s"));
  EXPECT_FALSE(ListenUnix(deep + "/" + std::string(100, 'c')));
}

TEST_F(SocketTest, NeverTakesOverWhatIsAlive) {
  std::string path = dir_ + "/s";
  {
    auto listener = ListenUnix(path).value();
    EXPECT_EQ(ListenUnix(path).error().code, Code::kAlreadyExists);
    EXPECT_EQ(ListenUnixAnew(path).error().code, Code::kAlreadyExists);
  }
  EXPECT_EQ(ConnectUnix(path).error().sys_errno, ECONNREFUSED);
  EXPECT_TRUE(ListenUnixAnew(path));
}

TEST_F(SocketTest, NeverRemovesAFile) {
  std::string path = dir_ + "/f";
  UniqueFd file(open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  EXPECT_FALSE(ListenUnixAnew(path));
  EXPECT_TRUE(std::filesystem::exists(path));
}

TEST_F(SocketTest, NoAbstractNames) {
  EXPECT_FALSE(ListenUnix(std::string("\0abc", 4)));
  EXPECT_FALSE(ListenUnix(""));
  EXPECT_FALSE(ConnectUnix(std::string("/tmp/a\0b", 8)));
}

}  // namespace
}  // namespace caisson::sys

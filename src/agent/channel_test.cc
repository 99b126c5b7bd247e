// SPDX-License-Identifier: Apache-2.0
#include "agent/channel.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/unique_fd.h"

namespace caisson::agent {
namespace {

class Ports : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "caisson-ports-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void Add(const std::string& port, const std::string& name) {
    ASSERT_EQ(mkdir((folder_ + "/" + port).c_str(), 0755), 0);
    std::ofstream(folder_ + "/" + port + "/name") << name << "\n";
  }

  std::string folder_;
};

TEST_F(Ports, AreFoundByTheirName) {
  Add("vport0p1", "another");
  Add("vport0p2", kPortName);
  ASSERT_EQ(mkdir((folder_ + "/vport0p3").c_str(), 0755), 0);  // it has not been named yet
  EXPECT_EQ(*FindPort(kPortName, folder_), "/dev/vport0p2");
}

TEST_F(Ports, ThereIsNone) {
  for (const std::string& folder : {folder_, folder_ + "/none"}) {
    auto found = AwaitPort(kPortName, Deadline::After(0), folder);
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().sys_errno, ENOENT);
    EXPECT_EQ(found.error().message, "find the virtio port 'caisson.agent.0' of this machine: No such file or directory");
  }
}

TEST_F(Ports, IsNamedAfterItWasLookedFor) {
  UniqueFd looks(inotify_init1(IN_CLOEXEC));
  ASSERT_GE(inotify_add_watch(looks.get(), folder_.c_str(), IN_CLOSE), 0);
  Result<std::string> found = MakeError(Code::kInternal, "not yet");
  std::thread waiter([&] { found = AwaitPort(kPortName, Deadline::After(30'000), folder_); });
  pollfd looked{looks.get(), POLLIN, 0};
  EXPECT_EQ(poll(&looked, 1, 30'000), 1);
  Add("vport0p1", kPortName);
  waiter.join();
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(*found, "/dev/vport0p1");
}

}  // namespace
}  // namespace caisson::agent

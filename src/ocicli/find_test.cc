// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/scope_exit.h"
#include "ocicli/command.h"
#include "ocicli/stats.h"

namespace caisson::ocicli {
namespace {

TEST(SignalNumberTest, KnowsEachWayOfNamingASignal) {
  for (auto [text, number] : {std::pair("9", 9), {"KILL", 9}, {"SIGKILL", 9}, {"sigterm", 15}, {"SIGIOT", 6}, {"RTMIN", 34},
                              {"SIGRTMIN+3", 37}, {"RTMAX", 64}, {"RTMAX-1", 63}, {"64", 64}, {"SYS", 31}}) {
    auto parsed = SignalNumber(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(*parsed, number) << text;
  }
  for (const char* text : {"", "0", "65", "-9", "SIG", "WHAT", "RTMIN-1", "RTMIN+31", "RTMAX+1", "9x"}) EXPECT_FALSE(SignalNumber(text)) << text;
}

TEST(ProcessMarkTest, IsOfOneProcessAlone) {
  ProcessMark own = MarkOf(getpid());
  EXPECT_EQ(own.pid, getpid());
  EXPECT_TRUE(IsAlive(own));
  EXPECT_TRUE(OpenProcess(own));
  // A later process with our number.
  ProcessMark other = own;
  other.start += 1;
  EXPECT_FALSE(IsAlive(other));
  EXPECT_FALSE(OpenProcess(other));
  EXPECT_FALSE(OpenProcess(ProcessMark()));
}

TEST(ProcessMarkTest, OneThatIsNotReapedIsNotAlive) {
  int pid = fork();
  if (pid == 0) _exit(0);
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(MarkOf(pid).pid, 0);
  waitpid(pid, nullptr, 0);
}

class FolderTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(mkdtemp(root_), nullptr);
    folder_ = Folder(root_, "one");
  }
  void TearDown() override {
    EXPECT_TRUE(folder_.Remove());
    rmdir(root_);
  }

  char root_[32] = "/tmp/caisson-test-XXXXXX";
  Folder folder_{"", ""};
};

TEST_F(FolderTest, KeepsARecord) {
  EXPECT_EQ(folder_.Read().error().code, Code::kNotFound);
  ASSERT_TRUE(folder_.Make());
  EXPECT_EQ(folder_.Make().error().code, Code::kAlreadyExists);
  EXPECT_EQ(folder_.Read().error().code, Code::kDataLoss);
  Record record;
  record.id = "one";
  record.bundle = "/b";
  record.init = {7, 8};
  record.cgroup = "/c";
  record.own_pid_namespace = true;
  record.annotations = {{"a", "b"}};
  ASSERT_TRUE(folder_.Write(record));
  auto read = folder_.Read();
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->init.pid, 7);
  EXPECT_EQ(read->init.start, 8u);
  EXPECT_EQ(read->cgroup, "/c");
  EXPECT_TRUE(read->own_pid_namespace);
  EXPECT_EQ(read->annotations, record.annotations);
  EXPECT_THAT(*ListFolders(root_), testing::ElementsAre("one"));
  EXPECT_EQ(*StatusOf(folder_, *read), Status::kStopped);
}

TEST_F(FolderTest, TheGateTellsCreatedFromRunning) {
  ASSERT_TRUE(folder_.Make());
  Record record;
  record.init = MarkOf(getpid());
  auto nobody = folder_.ConnectToGate();
  ASSERT_TRUE(nobody);
  EXPECT_FALSE(*nobody);
  {
    auto listener = folder_.ListenAtGate();
    ASSERT_TRUE(listener) << listener.error().message;
    EXPECT_EQ(*StatusOf(folder_, record), Status::kCreated);
  }
  EXPECT_EQ(*StatusOf(folder_, record), Status::kRunning);
}

TEST(StatsTest, HasTheMembersOfOtherRuntimes) {
  oci::CgroupStats stats;
  stats.cpu.usage_nanos = 5;
  stats.memory.usage = 10;
  stats.memory.swap_usage = 1;
  stats.pids.current = 3;
  stats.io.push_back({8, 0, 1, 2, 3, 4});
  Json json = StatsJson(stats);
  EXPECT_EQ(json["cpu"]["usage"]["total"], 5);
  EXPECT_EQ(json["memory"]["usage"]["usage"], 10);
  EXPECT_EQ(json["memory"]["swap"]["usage"], 11);
  EXPECT_FALSE(json["pids"].contains("limit"));
  EXPECT_EQ(json["blkio"]["ioServiceBytesRecursive"].size(), 2u);
}

}  // namespace
}  // namespace caisson::ocicli

// SPDX-License-Identifier: Apache-2.0
#include "cri/strays.h"

#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>

#include "base/id.h"

namespace caisson::cri {
namespace {

using std::string_view_literals::operator""sv;

TEST(Strays, APodIsReadFromArgumentsAndEnvironment) {
  EXPECT_EQ(PodOfCompanion("/bin/shim\0serve\0--id\0abc\0--listen-fd\0003\0"sv), "abc");
  EXPECT_EQ(PodOfCompanion("/bin/shim\0cleanup\0--id\0abc\0"sv), "");
  EXPECT_EQ(PodOfCompanion("grep\0serve --id abc\0"sv), "");
  EXPECT_EQ(PodOfCompanion(""sv), "");
  EXPECT_EQ(PodOfPlugin("PATH=/bin\0CNI_CONTAINERID=abc\0CNI_COMMAND=ADD\0"sv), "abc");
  EXPECT_EQ(PodOfPlugin("X=CNI_CONTAINERID=abc\0"sv), "");
}

// A shell with this environment that has stopped itself; killed at the end.
class Stopped {
 public:
  explicit Stopped(const std::string& variable) {
    const char* words[] = {"sh", "-c", "kill -STOP $$; exit 0", nullptr};
    const char* environment[] = {variable.c_str(), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, "/bin/sh", nullptr, nullptr, const_cast<char**>(words),
                          const_cast<char**>(environment)), 0);
    // posix_spawn(3) returns a little before the new program's environment can be read.
    siginfo_t info = {};
    EXPECT_EQ(waitid(P_PID, static_cast<id_t>(pid_), &info, WSTOPPED), 0);
  }
  ~Stopped() {
    if (pid_ > 0) kill(pid_, SIGKILL), waitpid(pid_, nullptr, 0);
  }
  int pid() const { return pid_; }
  // Waits for its end; the signal that ended it, or 0.
  int End() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }

 private:
  int pid_ = 0;
};

TEST(Strays, AreFoundByTheirPodAndEnded) {
  std::string id = NewId();
  Stopped plugin("CNI_CONTAINERID=" + id), stranger("CNI_CONTAINERID=" + NewId());
  auto strays = FindStrays({id});
  ASSERT_EQ(strays.size(), 1u);
  EXPECT_EQ(strays[0].pid, plugin.pid());
  EXPECT_EQ(strays[0].kind, Stray::Kind::kPlugin);
  AwaitStray(strays[0], 1);
  EXPECT_EQ(plugin.End(), SIGKILL);
  EXPECT_EQ(kill(stranger.pid(), 0), 0);
  EXPECT_TRUE(FindStrays({}).empty());
}

TEST(Strays, APluginThatEndsByItselfIsNotKilled) {
  std::string id = NewId();
  Stopped plugin("CNI_CONTAINERID=" + id);
  auto strays = FindStrays({id});
  ASSERT_EQ(strays.size(), 1u);
  kill(plugin.pid(), SIGCONT);
  AwaitStray(strays[0], 60'000);
  EXPECT_EQ(plugin.End(), 0);
}

}  // namespace
}  // namespace caisson::cri

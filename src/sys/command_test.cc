// SPDX-License-Identifier: Apache-2.0
#include "sys/command.h"

#include <gtest/gtest.h>

#include <thread>

namespace caisson::sys {
namespace {

constexpr int64_t kPatienceMillis = 60'000;

Result<CommandOutput> Shell(const std::string& script, std::string_view input = {}, size_t limit = 1000) {
  return RunCommand({{"/bin/sh", "-c", script, "name", "an argument"}, {"A=b c"}, input, limit, true, {}},
                    Deadline::After(kPatienceMillis));
}

TEST(RunCommand, PassesArgumentsEnvironmentAndInput) {
  auto ran = Shell("cat; echo \"$1|$A|$HOME\"; echo oh >&2; exit 3", "in\n");
  ASSERT_TRUE(ran) << ran.error().message;
  EXPECT_EQ(ran->out, "in\nan argument|b c|\n");
  EXPECT_EQ(ran->err, "oh\n");
  EXPECT_EQ(ran->exit_code, 3);
  EXPECT_EQ(ran->signal, 0);
}

TEST(RunCommand, ASignalIsTold) {
  auto ran = Shell("kill -9 $$");
  ASSERT_TRUE(ran) << ran.error().message;
  EXPECT_EQ(ran->signal, 9);
}

TEST(RunCommand, EndlessOutputIsKilled) {
  auto ran = Shell("while :; do echo more; done");
  ASSERT_FALSE(ran);
  EXPECT_EQ(ran.error().code, Code::kResourceExhausted) << ran.error().message;
}

TEST(RunCommand, TheDeadlineKillsItsChildrenToo) {
  auto ran = RunCommand({{"/bin/sh", "-c", "sleep 600 & sleep 600"}, {}, {}, 1000, false, {}}, Deadline::After(50));
  ASSERT_FALSE(ran);
  EXPECT_EQ(ran.error().code, Code::kDeadlineExceeded) << ran.error().message;
}

TEST(RunCommand, StoppingEndsIt) {
  std::stop_source stop;
  std::jthread stopper([&] { stop.request_stop(); });  // before or after it has begun
  auto ran = RunCommand({{"/bin/sleep", "600"}, {}, {}, 1000, false, stop.get_token()}, Deadline::After(kPatienceMillis));
  ASSERT_FALSE(ran);
  EXPECT_EQ(ran.error().code, Code::kCancelled) << ran.error().message;
}

TEST(RunCommand, AMissingProgramIsNamed) {
  auto ran = RunCommand({{"/nonexistent/program"}, {}, {}, 1000, false, {}}, Deadline::After(kPatienceMillis));
  ASSERT_FALSE(ran);
  EXPECT_NE(ran.error().message.find("/nonexistent/program"), std::string::npos) << ran.error().message;
}

}  // namespace
}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
#include "vmm/qmp.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/limits.h"

namespace caisson::vmm {
namespace {

using testing::HasSubstr;

constexpr char kGreeting[] = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";
constexpr char kReady[] = "{\"return\": {}, \"id\": 1}\r\n";

// The other end of a monitor: what it will say is sent before anything is asked.
class QmpTest : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    ours_ = UniqueFd(ends[0]);
    theirs_ = UniqueFd(ends[1]);
  }
  void Say(std::string_view text) { ASSERT_EQ(send(theirs_.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size())); }
  void Connect() {
    Say(kGreeting);
    Say(kReady);
    auto qmp = Qmp::Connect(std::move(ours_), Deadline::After(5000));
    ASSERT_TRUE(qmp) << qmp.error().message;
    qmp_ = std::move(*qmp);
    EXPECT_EQ(Heard(), "{\"arguments\":{},\"execute\":\"qmp_capabilities\",\"id\":1}\n");
  }
  std::string Heard() {
    char text[4096];
    ssize_t got = recv(theirs_.get(), text, sizeof text, MSG_DONTWAIT);
    return got > 0 ? std::string(text, static_cast<size_t>(got)) : "";
  }
  Result<std::string> Stop() { return qmp_->Execute("stop", Json::object(), Deadline::After(5000)); }

  UniqueFd ours_, theirs_;
  std::unique_ptr<Qmp> qmp_;
};

TEST_F(QmpTest, CommandsAreAnsweredInTheirOrder) {
  Connect();
  Say("{\"return\": {\"a\": [1]}, \"id\": 2}\r\n{\"return\": 7, \"id\": 3}\r\n");
  EXPECT_EQ(*qmp_->Execute("query", {{"x", 1}}, Deadline::After(5000)), "{\"a\":[1]}");
  EXPECT_EQ(Heard(), "{\"arguments\":{\"x\":1},\"execute\":\"query\",\"id\":2}\n");
  EXPECT_EQ(*Stop(), "7");
}

TEST_F(QmpTest, ErrorsNameTheCommandAndAreTheCommandsAlone) {
  Connect();
  Say("{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"no \\u001b[31m disk\"}, \"id\": 2}\n{\"return\": {}, \"id\": 3}\n");
  auto failed = Stop();
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kNotFound);
  EXPECT_EQ(failed.error().message, "stop: no \\x1b[31m disk");
  EXPECT_TRUE(Stop());
}

TEST_F(QmpTest, EventsAreKeptUntilTheyAreAskedFor) {
  Connect();
  Say("{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}, \"timestamp\": {}}\n"
      "{\"event\": \"NIC_RX_FILTER_CHANGED\", \"data\": {}}\n"
      "{\"return\": {}, \"id\": 2}\n"
      "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\n");
  EXPECT_TRUE(Stop());
  EXPECT_EQ(qmp_->WaitFor("MIGRATION", Deadline::After(5000))->detail, "completed");
  EXPECT_EQ(qmp_->Take("SHUTDOWN")->detail, "guest-reset");
  EXPECT_FALSE(qmp_->Take("SHUTDOWN"));
  EXPECT_FALSE(qmp_->Take("NIC_RX_FILTER_CHANGED"));
  EXPECT_EQ(qmp_->WaitFor("MIGRATION", Deadline::After(1)).error().code, Code::kDeadlineExceeded);
  Say("{\"event\": \"MIGRATION\", \"data\": {\"status\": \"failed\"}}\n");
  qmp_->Forget("MIGRATION");
  EXPECT_FALSE(qmp_->Take("MIGRATION"));
}

TEST_F(QmpTest, EventsWithoutEndAreForgotten) {
  Connect();
  for (size_t i = 0; i < 2 * limits::kQmpEvents; ++i) Say(fmt::format("{{\"event\": \"MIGRATION\", \"data\": {{\"status\": \"{}\"}}}}\n", i));
  qmp_->Drain();
  EXPECT_EQ(qmp_->Take("MIGRATION")->detail, fmt::format("{}", limits::kQmpEvents));
}

// A late answer must not be taken for the next command's.
TEST_F(QmpTest, ADeadlineEndsTheConnection) {
  Connect();
  auto late = qmp_->Execute("stop", Json::object(), Deadline::After(1));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Code::kDeadlineExceeded);
  Say("{\"return\": {}, \"id\": 2}\n{\"return\": {}, \"id\": 3}\n");
  EXPECT_EQ(Stop().error().code, Code::kDeadlineExceeded);
}

TEST_F(QmpTest, WrongAnswersEndTheConnection) {
  for (const char* answer : {
           "{\"return\": {}, \"id\": 3}\n",                     // of another command
           "{\"return\": {}, \"id\": -2}\n",
           "{\"return\": {}, \"id\": \"2\"}\n",
           "{\"return\": {}}\n",
           "{\"return\": {}, \"error\": {\"class\": \"x\", \"desc\": \"y\"}, \"id\": 2}\n",
           "{\"return\": {}, \"return\": {}, \"id\": 2}\n",
           "{\"error\": \"x\", \"id\": 2}\n",
           "{\"error\": {\"class\": 1, \"desc\": \"y\"}, \"id\": 2}\n",
           "{\"event\": 1}\n",
           "{\"event\": \"X\", \"data\": 1}\n",
           "{}\n", "[]\n", "\n", "x\n",
           "{\"QMP\": {}}\n",                                   // a second greeting
       }) {
    SetUp();
    Connect();
    Say(answer);
    Say("{\"return\": {}, \"id\": 2}\n{\"return\": {}, \"id\": 3}\n");
    EXPECT_FALSE(Stop()) << answer;
    EXPECT_FALSE(Stop()) << answer;
    EXPECT_TRUE(qmp_->broken()) << answer;
  }
}

TEST_F(QmpTest, TheEndIsNoticed) {
  Connect();
  theirs_.Reset();
  auto stopped = Stop();
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, Code::kUnavailable);
  qmp_->Drain();
}

TEST_F(QmpTest, NoGreetingNoConnection) {
  Say(kReady);
  EXPECT_FALSE(Qmp::Connect(std::move(ours_), Deadline::After(5000)));
  SetUp();
  EXPECT_EQ(Qmp::Connect(std::move(ours_), Deadline::After(1)).error().code, Code::kDeadlineExceeded);
}

// Never more in memory than one message and a little.
TEST_F(QmpTest, AMessageWithoutAnEndIsRefused) {
  Connect();
  pid_t talker = fork();
  if (talker == 0) {
    qmp_.reset();
    std::string much(64 << 10, ' ');
    while (send(theirs_.get(), much.data(), much.size(), MSG_NOSIGNAL) > 0) {
    }
    _exit(0);
  }
  auto stopped = Stop();
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, Code::kResourceExhausted) << stopped.error().message;
  EXPECT_THAT(stopped.error().message, HasSubstr("without an end"));
  qmp_.reset();  // ends the talker
  EXPECT_EQ(waitpid(talker, nullptr, 0), talker);
}

TEST_F(QmpTest, EventsInsteadOfAnAnswerAreRefused) {
  Connect();
  pid_t talker = fork();
  if (talker == 0) {
    qmp_.reset();
    std::string much;
    for (int i = 0; i < 1000; ++i) much += "{\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": 1}}\r\n";
    while (send(theirs_.get(), much.data(), much.size(), MSG_NOSIGNAL) > 0) {
    }
    _exit(0);
  }
  auto stopped = qmp_->Execute("stop", Json::object(), Deadline::After(60'000));
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, Code::kResourceExhausted) << stopped.error().message;
  qmp_.reset();  // ends the talker
  EXPECT_EQ(waitpid(talker, nullptr, 0), talker);
}

TEST_F(QmpTest, DescriptorsGoWithACommand) {
  Connect();
  UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  Say("{\"return\": {}, \"id\": 2}\n");
  ASSERT_TRUE(qmp_->Execute("add-fd", {{"fdset-id", 1}}, Deadline::After(5000), file.get()));
  char text[256];
  iovec part{text, sizeof text};
  alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ASSERT_GT(recvmsg(theirs_.get(), &message, MSG_CMSG_CLOEXEC), 0);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  ASSERT_NE(header, nullptr);
  EXPECT_EQ(header->cmsg_type, SCM_RIGHTS);
  ASSERT_EQ(header->cmsg_len, CMSG_LEN(sizeof(int)));
  int got;
  memcpy(&got, CMSG_DATA(header), sizeof got);
  close(got);
}

}  // namespace
}  // namespace caisson::vmm

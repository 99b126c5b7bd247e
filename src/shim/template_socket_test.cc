// SPDX-License-Identifier: Apache-2.0
#include "shim/template_socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <thread>

#include "sys/socket.h"
#include "vmm/vm.h"

namespace caisson::shim {
namespace {

using testing::HasSubstr;

constexpr uint64_t kBytes = 1 << 20;
constexpr int64_t kPatienceMillis = 20'000;

size_t OpenDescriptors() {
  size_t count = 0;
  for ([[maybe_unused]] auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

class TemplateSocket : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/caisson-template-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static TemplateFiles Make(bool with_memory, bool sealed = true) {
    TemplateFiles files;
    files.state = std::move(*vmm::MakeStateFile());
    EXPECT_EQ(write(files.state.get(), "state", 5), 5);
    if (with_memory) files.memory = std::move(*vmm::MakeMemoryFile(kBytes));
    if (!sealed) return files;
    EXPECT_TRUE(vmm::SealMemoryFile(files.state.get()));
    EXPECT_TRUE(!with_memory || vmm::SealMemoryFile(files.memory.get()));
    return files;
  }

  // What a keeper that does `answer` with its first client comes to.
  Result<TemplateFiles> Take(const std::function<void(int)>& answer, int64_t millis = kPatienceMillis, uint64_t bytes = kBytes) {
    auto listener = sys::ListenUnixAnew(folder_ + "/" + kTemplateSocket);
    EXPECT_TRUE(listener);
    std::thread keeper([&] {
      UniqueFd client;
      while (!client) client = UniqueFd(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
      answer(client.get());
    });
    auto taken = TakeTemplate(folder_, bytes, millis);
    keeper.join();
    return taken;
  }

  std::string folder_;
};

TEST_F(TemplateSocket, HandsOutWhatIsSealed) {
  for (bool with_memory : {true, false}) {
    TemplateFiles files = Make(with_memory);
    auto taken = Take([&](int client) { EXPECT_TRUE(SendTemplate(client, files)); });
    ASSERT_TRUE(taken) << taken.error().message;
    EXPECT_EQ(taken->memory.valid(), with_memory);
    char text[8] = {};
    EXPECT_EQ(pread(taken->state.get(), text, sizeof text, 0), 5);
    EXPECT_STREQ(text, "state");
    EXPECT_EQ(fcntl(taken->state.get(), F_GETFD), FD_CLOEXEC);
    EXPECT_LT(pwrite(taken->state.get(), "x", 1, 0), 0);
  }
}

TEST_F(TemplateSocket, NoKeeperIsAnErrorAtOnce) {
  EXPECT_FALSE(TakeTemplate(folder_, kBytes, kPatienceMillis));
  // Its socket is there, but nobody listens: it was killed.
  ASSERT_TRUE(sys::ListenUnixAnew(folder_ + "/" + kTemplateSocket));
  EXPECT_FALSE(TakeTemplate(folder_, kBytes, kPatienceMillis));
}

TEST_F(TemplateSocket, AKeeperThatStandsStillIsNotWaitedForBeyondTheDeadline) {
  auto listener = sys::ListenUnixAnew(folder_ + "/" + kTemplateSocket);
  ASSERT_TRUE(listener);
  auto taken = TakeTemplate(folder_, kBytes, 50);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, Code::kDeadlineExceeded);
}

TEST_F(TemplateSocket, WhatIsNoTemplateIsRefusedAndLeavesNoDescriptor) {
  TemplateFiles unsealed = Make(true, false), good = Make(true), alone = Make(false);
  auto send = [](int client, const char* word, std::initializer_list<int> fds) {
    iovec data{const_cast<char*>(word), 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 8)] = {};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    if (fds.size() > 0) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
      cmsghdr* part = CMSG_FIRSTHDR(&message);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      memcpy(CMSG_DATA(part), fds.begin(), sizeof(int) * fds.size());
    }
    (void)!sendmsg(client, &message, MSG_NOSIGNAL);
  };
  const int state = good.state.get(), memory = good.memory.get();
  const size_t before = OpenDescriptors();
  std::pair<const char*, std::function<void(int)>> cases[] = {
      {"has ended", [](int) {}},
      {"something else", [&](int client) { send(client, "2", {}); }},
      {"something else", [&](int client) { send(client, "1", {}); }},
      {"something else", [&](int client) { send(client, "2", {state}); }},
      {"something else", [&](int client) { send(client, "1", {state, memory}); }},
      {"something else", [&](int client) { send(client, "x", {state}); }},
      {"something else", [&](int client) { send(client, "2", {state, memory, state, state}); }},
      {"not sealed", [&](int client) { (void)SendTemplate(client, unsealed); }},
      {"not sealed", [&](int client) { send(client, "1", {STDERR_FILENO}); }},
      {"another size", [&](int client) { send(client, "2", {state, state}); }},
  };
  for (const auto& [said, answer] : cases) {
    auto taken = Take(answer);
    ASSERT_FALSE(taken) << said;
    EXPECT_THAT(taken.error().message, HasSubstr(said));
    EXPECT_EQ(OpenDescriptors(), before) << said;
  }
  auto other = Take([&](int client) { (void)SendTemplate(client, good); }, kPatienceMillis, kBytes * 2);
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error().message, HasSubstr("another size"));
}

}  // namespace
}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
#include "sys/fd_message.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>

namespace caisson::sys {
namespace {

class FdMessage : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    a_ = UniqueFd(ends[0]), b_ = UniqueFd(ends[1]);
  }
  ssize_t Receive(size_t size = 64) {
    text_.resize(size);
    return ReceiveFds(b_.get(), text_.data(), size, &fds_, MSG_DONTWAIT, &sender_);
  }

  UniqueFd a_, b_;
  std::string text_;
  std::vector<UniqueFd> fds_;
  int sender_ = 0;
};

TEST_F(FdMessage, CarriesDescriptorsThatAreClosedOnExec) {
  const std::array<int, 2> sent = {a_.get(), b_.get()};
  ASSERT_EQ(SendFds(a_.get(), "two", sent), 3);
  ASSERT_EQ(Receive(), 3);
  ASSERT_EQ(fds_.size(), 2u);
  EXPECT_EQ(fcntl(fds_[1].get(), F_GETFD), FD_CLOEXEC);
  ASSERT_EQ(write(fds_[0].get(), "x", 1), 1);  // a_ once more
  EXPECT_EQ(Receive(), 1);
}

TEST_F(FdMessage, CarriesNone) {
  ASSERT_EQ(SendFds(a_.get(), "none", {}), 4);
  EXPECT_EQ(Receive(), 4);
  EXPECT_TRUE(fds_.empty());
  a_.Reset();
  EXPECT_EQ(Receive(), 0);
}

TEST_F(FdMessage, TellsTheSenderWhereItIsAsked) {
  const int on = 1;
  ASSERT_EQ(setsockopt(b_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
  std::vector<int> most(kMessageFds, a_.get());
  ASSERT_EQ(SendFds(a_.get(), "me", most), 2);
  ASSERT_EQ(Receive(), 2);
  EXPECT_EQ(sender_, getpid());
  EXPECT_EQ(fds_.size(), kMessageFds);
}

TEST_F(FdMessage, WhatIsCutOffIsAnErrorAndNothingLeaks) {
  ASSERT_EQ(SendFds(a_.get(), "much too long", {}), 13);
  EXPECT_EQ(Receive(4), -1);
  EXPECT_EQ(errno, EMSGSIZE);
  std::vector<int> many(kMessageFds + 1, a_.get());
  EXPECT_EQ(SendFds(a_.get(), "x", many), -1);
  EXPECT_EQ(errno, EMSGSIZE);
  // By somebody else's means.
  char space[CMSG_SPACE(sizeof(int) * (kMessageFds + 40))] = {};
  char byte = 'x';
  iovec part{&byte, 1};
  msghdr message{};
  message.msg_iov = &part, message.msg_iovlen = 1, message.msg_control = space, message.msg_controllen = sizeof space;
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof(int) * (kMessageFds + 40));
  for (size_t i = 0; i < kMessageFds + 40; ++i) reinterpret_cast<int*>(CMSG_DATA(head))[i] = a_.get();
  const int before = dup(0);
  close(before);
  ASSERT_EQ(sendmsg(a_.get(), &message, 0), 1);
  EXPECT_EQ(Receive(), -1);
  EXPECT_EQ(errno, EMSGSIZE);
  fds_.clear();
  const int after = dup(0);
  close(after);
  EXPECT_EQ(before, after);
}

}  // namespace
}  // namespace caisson::sys

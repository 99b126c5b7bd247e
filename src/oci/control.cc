// SPDX-License-Identifier: Apache-2.0
#include "oci/control.h"

#include <poll.h>
#include <sys/socket.h>

#include <cstring>

namespace caisson::oci {
namespace {
constexpr size_t kMaxMessage = 4096;

// Code and errno as bytes, then the text.
struct FailureHead {
  char signal;
  int32_t code, sys_errno;
};
}  // namespace

Result<ControlPair> MakeControlPair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return ErrnoError("make the launcher's socket pair");
  return ControlPair{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<> SendSignal(int socket, Signal signal, int fd) {
  char word = static_cast<char>(signal);
  iovec part{&word, 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
  if (fd >= 0) {
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
  }
  if (sendmsg(socket, &message, MSG_NOSIGNAL) != 1) return ErrnoError("tell the launcher's other side");
  return {};
}

Result<> SendFailure(int socket, const Error& error) {
  char message[kMaxMessage] = {};
  FailureHead head{static_cast<char>(Signal::kFailed), static_cast<int32_t>(error.code), error.sys_errno};
  size_t text = std::min(error.message.size(), sizeof message - sizeof head);
  std::memcpy(message, &head, sizeof head);
  std::memcpy(message + sizeof head, error.message.data(), text);
  if (send(socket, message, sizeof head + text, MSG_NOSIGNAL) < 0) return ErrnoError("tell the launcher of a failure");
  return {};
}

Result<Received> Receive(int socket, const Deadline& deadline) {
  for (;;) {
    pollfd wait{socket, POLLIN, 0};
    int ready = poll(&wait, 1, deadline.RemainingMillis());
    if (ready > 0) break;
    if (ready < 0 && errno != EINTR) return ErrnoError("wait for the container's process");
    if (ready == 0) return MakeError(Code::kDeadlineExceeded, "the container's process does not answer");
  }
  char bytes[kMaxMessage];
  iovec part{bytes, sizeof bytes};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = sizeof space;
  ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (got < 0) return ErrnoError("hear from the container's process");
  Received received;
  if (cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr && head->cmsg_type == SCM_RIGHTS) {
    int fd;
    std::memcpy(&fd, CMSG_DATA(head), sizeof fd);
    received.fd = UniqueFd(fd);
  }
  if (got == 0) return received;  // the end
  if (bytes[0] == static_cast<char>(Signal::kFailed) && got >= static_cast<ssize_t>(sizeof(FailureHead))) {
    FailureHead head;
    std::memcpy(&head, bytes, sizeof head);
    return Error{static_cast<Code>(head.code), head.sys_errno,
                 std::string(bytes + sizeof head, static_cast<size_t>(got) - sizeof head)};
  }
  received.signal = static_cast<Signal>(bytes[0]);
  return received;
}

}  // namespace caisson::oci

// SPDX-License-Identifier: Apache-2.0
#include "sys/fd_message.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace caisson::sys {
namespace {

struct Control {
  alignas(cmsghdr) char bytes[CMSG_SPACE(sizeof(int) * kMessageFds) + CMSG_SPACE(sizeof(ucred))];
};

}  // namespace

ssize_t SendFds(int socket, std::string_view bytes, std::span<const int> fds, int flags) {
  if (fds.size() > kMessageFds) {
    errno = EMSGSIZE;
    return -1;
  }
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  Control control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(head), fds.data(), fds.size_bytes());
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL | flags);
}

ssize_t ReceiveFds(int socket, void* to, size_t size, std::vector<UniqueFd>* fds, int flags, int* sender) {
  iovec part{to, size};
  Control control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  ssize_t got;
  while ((got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | flags)) < 0 && errno == EINTR) {
  }
  if (got < 0) return got;
  for (cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr; head = CMSG_NXTHDR(&message, head)) {
    if (head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_CREDENTIALS && sender != nullptr) {
      ucred from;
      std::memcpy(&from, CMSG_DATA(head), sizeof from);
      *sender = from.pid;
    }
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at + CMSG_LEN(0) < head->cmsg_len; at += sizeof(int)) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(head) + at, sizeof fd);
      fds->emplace_back(fd);
    }
  }
  if ((message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0) return got;
  errno = EMSGSIZE;
  return -1;
}

}  // namespace caisson::sys

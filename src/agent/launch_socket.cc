// SPDX-License-Identifier: Apache-2.0
#include "agent/launch_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "sys/fd_message.h"

namespace caisson::agent {
namespace {

struct Head {
  uint32_t magic, size, fds;
};
constexpr uint32_t kMagic = 0x63414c31;

Result<> Await(int socket, short events, const Deadline& deadline, const char* what) {
  for (;;) {
    pollfd wait{socket, events, 0};
    int ready = poll(&wait, 1, deadline.RemainingMillis());
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return ErrnoError("{}", what);
    if (ready == 0) return MakeError(Code::kDeadlineExceeded, "{}: nothing within the deadline", what);
  }
}

// At most one part of a message: returns how much went.
Result<size_t> SendSome(int socket, std::string_view text, const std::vector<int>& fds, int flags) {
  ssize_t sent = sys::SendFds(socket, text, fds, flags);
  if (sent >= 0) return static_cast<size_t>(sent);
  if (errno == EINTR || errno == EAGAIN) return size_t{0};
  return ErrnoError("send to the guest's other process");
}

// What there is, up to `size` bytes; 0: the end.
Result<size_t> ReceiveSome(int socket, char* to, size_t size, std::vector<UniqueFd>* fds, int flags, int* sender = nullptr) {
  ssize_t got = sys::ReceiveFds(socket, to, size, fds, flags, sender);
  if (got < 0 && errno == EMSGSIZE) return MakeError(Code::kDataLoss, "a message of the guest's other process is cut off");
  if (got < 0) return ErrnoError("hear from the guest's other process");
  return static_cast<size_t>(got);
}

Result<> ReceiveAll(int socket, char* to, size_t size, LaunchMessage* message, const Deadline& deadline) {
  while (size > 0) {
    TRY(Await(socket, POLLIN, deadline, "hear from the guest's other process"));
    size_t got = TRY(ReceiveSome(socket, to, size, &message->fds, 0, &message->sender));
    if (got == 0) return MakeError(Code::kUnavailable, "the guest's other process has ended");
    to += got;
    size -= got;
  }
  return {};
}

}  // namespace

Result<SocketPair> MakeSocketPair(int type) {
  int ends[2];
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0) return ErrnoError("make a socket pair");
  return SocketPair{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<> SendLaunch(int socket, std::string_view text, const std::vector<int>& fds, const Deadline& deadline) {
  if (text.size() > limits::kLaunchMessageBytes || fds.size() > sys::kMessageFds) {
    return MakeError(Code::kResourceExhausted, "a message of {} bytes and {} descriptors between the guest's processes", text.size(), fds.size());
  }
  Head head{kMagic, static_cast<uint32_t>(text.size()), static_cast<uint32_t>(fds.size())};
  std::string_view bytes(reinterpret_cast<const char*>(&head), sizeof head);
  const std::vector<int>* with = &fds;
  const std::vector<int> none;
  for (std::string_view rest : {bytes, text}) {
    while (!rest.empty()) {
      TRY(Await(socket, POLLOUT, deadline, "send to the guest's other process"));
      size_t sent = TRY(SendSome(socket, rest, *with, MSG_DONTWAIT));
      if (sent > 0) with = &none;  // they have gone with the first byte (unix(7))
      rest.remove_prefix(sent);
    }
  }
  return {};
}

Result<LaunchMessage> ReceiveLaunch(int socket, const Deadline& deadline) {
  LaunchMessage message;
  Head head;
  TRY(ReceiveAll(socket, reinterpret_cast<char*>(&head), sizeof head, &message, deadline));
  if (head.magic != kMagic || head.size > limits::kLaunchMessageBytes) return MakeError(Code::kDataLoss, "no message of the guest's other process");
  message.text.resize(head.size);
  TRY(ReceiveAll(socket, message.text.data(), head.size, &message, deadline));
  if (message.fds.size() != head.fds) return MakeError(Code::kDataLoss, "a message with {} descriptors instead of {}", message.fds.size(), head.fds);
  return message;
}

Result<> AskForSenders(int socket) {
  int on = 1;
  if (setsockopt(socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0) return ErrnoError("ask a socket for its senders");
  return {};
}

Result<> AskForLauncher(int socket, int connection, const Birthplace* place, const Deadline& deadline) {
  std::vector<int> fds = {connection};
  if (place != nullptr) fds.push_back(place->cgroup.get());
  if (place != nullptr && place->pid_namespace) fds.push_back(place->pid_namespace.get());
  for (;;) {
    TRY(Await(socket, POLLOUT, deadline, "ask for a launcher"));
    if (TRY(SendSome(socket, "L", fds, MSG_DONTWAIT)) > 0) return {};
  }
}

Result<Asked> TakeConnection(int socket) {
  char word[2];
  std::vector<UniqueFd> fds;
  auto got = ReceiveSome(socket, word, sizeof word, &fds, MSG_DONTWAIT);
  if (!got && got.error().sys_errno == EAGAIN) return Asked();
  if (!got) return std::move(got.error());
  if (*got == 0) return MakeError(Code::kUnavailable, "the agent has closed its socket");
  if (*got != 1 || word[0] != 'L' || fds.empty() || fds.size() > 3) return MakeError(Code::kDataLoss, "the agent speaks out of turn");
  fds.resize(3);
  return Asked{std::move(fds[0]), {std::move(fds[1]), std::move(fds[2])}};
}

Result<bool> SendNotice(int socket, const task::EndedProcess& notice) {
  return TRY(SendSome(socket, {reinterpret_cast<const char*>(&notice), sizeof notice}, {}, MSG_DONTWAIT)) > 0;
}

bool TakeNotice(int socket, task::EndedProcess* notice) {
  std::vector<UniqueFd> none;
  auto got = ReceiveSome(socket, reinterpret_cast<char*>(notice), sizeof *notice, &none, MSG_DONTWAIT);
  return got && *got == sizeof *notice;
}

}  // namespace caisson::agent

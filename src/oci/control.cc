// SPDX-License-Identifier: Apache-2.0
#include "oci/control.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "sys/fd_message.h"

namespace caisson::oci {
namespace {
constexpr size_t kMaxMessage = 8192;  // the ids of limits::kUserGroups groups fit

// Code and errno as bytes, then the text.
struct FailureHead {
  char signal;
  int32_t code, sys_errno;
};
}  // namespace

Result<ControlPair> MakeControlPair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return ErrnoError("make the launcher's socket pair");
  ControlPair pair{UniqueFd(ends[0]), UniqueFd(ends[1])};
  if (pair.child.get() < 3) pair.child = UniqueFd(fcntl(ends[1], F_DUPFD_CLOEXEC, 3));  // those are the program's
  if (!pair.child) return ErrnoError("make the launcher's socket pair");
  return pair;
}

Result<> SendSignal(int socket, Signal signal, int fd) {
  char word = static_cast<char>(signal);
  if (sys::SendFds(socket, {&word, 1}, std::span(&fd, fd >= 0 ? 1 : 0)) != 1) return ErrnoError("tell the launcher's other side");
  return {};
}

Result<> SendReady(int socket, const Ids& ids) {
  std::string message(1, static_cast<char>(Signal::kReady));
  message.append(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(ids[0]));
  if (write(socket, message.data(), message.size()) < 0) return ErrnoError("tell the launcher's other side");
  return {};
}

bool IsGone(int socket) {
  pollfd state{socket, 0, 0};
  return poll(&state, 1, 0) > 0 && (state.revents & POLLHUP);
}

Result<> SendFailure(int socket, const Error& error) {
  char message[kMaxMessage] = {};
  FailureHead head{static_cast<char>(Signal::kFailed), static_cast<int32_t>(error.code), error.sys_errno};
  size_t text = std::min(error.message.size(), sizeof message - sizeof head);
  std::memcpy(message, &head, sizeof head);
  std::memcpy(message + sizeof head, error.message.data(), text);
  if (write(socket, message, sizeof head + text) < 0) return ErrnoError("tell the launcher of a failure");
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
  std::vector<UniqueFd> fds;
  ssize_t got = sys::ReceiveFds(socket, bytes, sizeof bytes, &fds);
  if (got < 0) return ErrnoError("hear from the container's process");
  Received received;
  if (!fds.empty()) received.fd = std::move(fds.front());
  if (got == 0) return received;  // the end
  if (bytes[0] == static_cast<char>(Signal::kFailed) && got >= static_cast<ssize_t>(sizeof(FailureHead))) {
    FailureHead head;
    std::memcpy(&head, bytes, sizeof head);
    return Error{static_cast<Code>(head.code), head.sys_errno,
                 std::string(bytes + sizeof head, static_cast<size_t>(got) - sizeof head)};
  }
  received.signal = static_cast<Signal>(bytes[0]);
  received.ids.resize((static_cast<size_t>(got) - 1) / sizeof(uint32_t));
  if (!received.ids.empty()) std::memcpy(received.ids.data(), bytes + 1, received.ids.size() * sizeof(uint32_t));
  return received;
}

Result<> StartAtGate(const std::string& id, UniqueFd gate, int64_t deadline_millis) {
  auto already = [&] { return MakeError(Code::kFailedPrecondition, "container '{}' was started already", id); };
  if (!SendSignal(gate.get(), Signal::kStart)) return already();
  // Without an answer someone else was there first, or the process has ended.
  auto answer = Receive(gate.get(), Deadline::After(deadline_millis));
  if (!answer || answer->signal != Signal::kStart) return already();
  return AwaitExecve(id, gate.get(), deadline_millis);
}

Result<> AwaitExecve(const std::string& id, int socket, int64_t deadline_millis) {
  auto word = Receive(socket, Deadline::After(deadline_millis));
  if (!word) return std::move(word.error());
  // End of file: execve has closed the other end. Or the process was killed meanwhile, which its exit tells.
  if (word->signal != Signal::kEnd) return MakeError(Code::kInternal, "container '{}': init speaks out of turn", id);
  return {};
}

Result<UniqueFd> AwaitExec(const std::string& id, int socket, int64_t deadline_millis) {
  Deadline deadline = Deadline::After(deadline_millis);
  UniqueFd console;
  auto word = TRY(Receive(socket, deadline));
  if (word.signal == Signal::kConsole) {
    console = std::move(word.fd);
    word = TRY(Receive(socket, deadline));
  }
  if (word.signal != Signal::kEnd) return MakeError(Code::kInternal, "exec in container '{}': the process speaks out of turn", id);
  return console;
}

}  // namespace caisson::oci

// SPDX-License-Identifier: Apache-2.0
#include "task/criu.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/strings.h"

namespace caisson::task {
namespace {

constexpr size_t kMaxLines = 3;

void KillCriu(int pidfd) { syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0); }

// The end of a log that may be large.
std::string ReadEnd(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!file) return "";
  off_t size = lseek(file.get(), 0, SEEK_END);
  std::string text(limits::kCriuLogBytes, '\0');
  ssize_t got = pread(file.get(), text.data(), text.size(), std::max<off_t>(0, size - static_cast<off_t>(text.size())));
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return text;
}

}  // namespace

Result<CriuSockets> MakeCriuSockets() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return ErrnoError("make a socket for criu");
  CriuSockets sockets{UniqueFd(ends[0]), UniqueFd(ends[1])};
  fcntl(ends[0], F_SETFL, O_NONBLOCK);  // criu's end stays as criu wants it
  return sockets;
}

std::string LastWords(std::string_view log) {
  std::vector<std::string> lines;
  for (std::string_view line : Split(log, '\n')) {
    // "(00.123456) Error (criu/net.c:12): words"
    size_t at = line.find("Error (");
    if (at == std::string_view::npos || line.ends_with("FAILED.")) continue;
    size_t words = line.find("): ", at);
    lines.emplace_back(Trim(words == std::string_view::npos ? line.substr(at) : line.substr(words + 3)).substr(0, 256));
    if (lines.size() > kMaxLines) lines.erase(lines.begin());
  }
  return Join(lines, "; ");
}

void CriuCall::Start(Setup setup, const criu::Request& request) {
  auto call = std::make_shared<CriuCall>(std::move(setup));
  auto begin = [&]() -> Result<> {
    TRY(call->Send(request));
    TRY(call->setup_.loop->Watch(call->setup_.socket.get(), EPOLLIN, [call](uint32_t) { call->OnReadable(); }));
    return {};
  };
  auto begun = begin();
  if (!begun) {
    call->setup_.loop->Post([call, error = begun.error()] { call->End(error); });
    return;
  }
  call->timer_ = call->setup_.loop->After(call->setup_.deadline_millis, [call] {
    call->timer_ = 0;
    call->End(MakeError(Code::kDeadlineExceeded, "criu did not end within {} ms and was killed", call->setup_.deadline_millis));
  });
}

Result<> CriuCall::Send(const criu::Request& request) {
  std::string bytes = request.SerializeAsString();
  if (send(setup_.socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size())) return {};
  return ErrnoError("send a request to criu");
}

Error CriuCall::Failure(const std::string& what) const {
  std::string words = LastWords(ReadEnd(setup_.log_path));
  return MakeError(Code::kFailedPrecondition, "criu: {}", words.empty() ? what : words);
}

void CriuCall::OnReadable() {
  auto self = shared_from_this();
  std::string bytes(limits::kCriuMessageBytes, '\0');
  ssize_t got = recv(setup_.socket.get(), bytes.data(), bytes.size(), MSG_TRUNC | MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return End(Failure("it ended without an answer"));
  criu::Response response;
  if (static_cast<size_t>(got) > bytes.size() || !response.ParseFromArray(bytes.data(), static_cast<int>(got))) {
    return End(MakeError(Code::kInternal, "criu answered what is no message of its"));
  }
  if (response.type() == criu::NOTIFY) return OnNotify(response.notify());
  if (!response.success()) return End(Failure(response.cr_errmsg().empty() ? "it failed" : response.cr_errmsg().substr(0, 256)));
  End(std::move(response));
}

void CriuCall::OnNotify(const criu::Notification& notification) {
  criu::Request answer;
  answer.set_type(criu::NOTIFY);
  auto judged = setup_.on_notify ? setup_.on_notify(notification) : Result<>();
  answer.set_notify_success(judged.has_value());
  if (!judged && refused_) refused_ = std::move(judged);
  if (auto sent = Send(answer); !sent) End(std::move(sent.error()));
}

void CriuCall::End(Result<criu::Response> outcome) {
  if (std::exchange(ended_, true)) return;
  setup_.loop->Unwatch(setup_.socket.get());
  setup_.loop->CancelTimer(timer_);
  // It has nothing more to do, or is not to do it.
  if (!outcome) KillCriu(setup_.pidfd.get());
  setup_.socket.Reset();
  auto done = std::move(setup_.done);
  setup_.on_notify = nullptr;
  if (!refused_) return done(std::move(refused_.error()));
  done(std::move(outcome));
}

}  // namespace caisson::task

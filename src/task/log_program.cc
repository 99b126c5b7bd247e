// SPDX-License-Identifier: Apache-2.0
#include "task/log_program.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "base/strings.h"
#include "sys/pipe.h"
#include "sys/spawn.h"

namespace caisson::task {
namespace {

constexpr std::string_view kScheme = "binary://";
constexpr size_t kMaxUriBytes = 16 << 10, kMaxArguments = 256;

void SendSignal(int pidfd, int signal) { syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0); }

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = static_cast<char>(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// RFC 3986, 2.1; in a query '+' is a space.
Result<std::string> Unescape(std::string_view text, bool query) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+' && query) {
      out += ' ';
    } else if (text[i] != '%') {
      out += text[i];
    } else {
      int high = i + 2 < text.size() ? HexValue(text[i + 1]) : -1, low = i + 2 < text.size() ? HexValue(text[i + 2]) : -1;
      if (high < 0 || low < 0 || (high == 0 && low == 0)) return MakeError(Code::kInvalidArgument, "a bad escape sequence");
      out += static_cast<char>(high * 16 + low);
      i += 2;
    }
  }
  return out;
}

Result<std::vector<std::string>> ParseParts(std::string_view rest) {
  size_t mark = rest.find('?');
  std::vector<std::string> words = {TRY(Unescape(rest.substr(0, mark), false))};
  if (!words[0].starts_with('/')) return MakeError(Code::kInvalidArgument, "its program is no absolute path");
  if (mark == std::string_view::npos) return words;
  for (std::string_view pair : Split(rest.substr(mark + 1), '&')) {
    if (pair.empty()) continue;
    size_t equals = pair.find('=');
    words.push_back(TRY(Unescape(pair.substr(0, equals), true)));
    words.push_back(equals == std::string_view::npos ? "" : TRY(Unescape(pair.substr(equals + 1), true)));
    if (words.size() > kMaxArguments) return MakeError(Code::kInvalidArgument, "it has too many arguments");
  }
  return words;
}

}  // namespace

// From started to ready.
struct LogProgramStart : std::enable_shared_from_this<LogProgramStart> {
  sys::EventLoop* loop;
  std::string name;
  UniqueFd ready;
  std::shared_ptr<LogProgram> program;
  LogProgram::Ready done;
  sys::EventLoop::TimerId timer = 0;

  Result<> Spawn(const std::string& uri, const std::string& id, const std::string& containerd_namespace) {
    sys::SpawnRequest request;
    request.argv = TRY(ParseLogUri(uri));
    request.program = name = request.argv[0];
    request.environment = {"CONTAINER_ID=" + id, "CONTAINER_NAMESPACE=" + containerd_namespace};
    sys::PipeEnds out = TRY(sys::OpenPipe("a pipe for a log program")), err = TRY(sys::OpenPipe("a pipe for a log program"));
    sys::PipeEnds wait = TRY(sys::OpenPipe("a pipe for a log program"));
    request.fds = {out.reader.get(), err.reader.get(), wait.writer.get()};
    int pid = TRY(sys::SpawnDetached(request));
    UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));  // nobody reaps it before the loop's next turn
    if (!pidfd) return kill(pid, SIGKILL), ErrnoError("open log program '{}'", name);
    program = std::make_shared<LogProgram>(loop, std::move(pidfd));
    program->out = std::move(out.writer);
    program->err = std::move(err.writer);
    ready = std::move(wait.reader);
    return {};
  }

  Result<> Await() {
    TRY(loop->Watch(ready.get(), EPOLLIN, [self = shared_from_this()](uint32_t) { self->OnReady(); }));
    timer = loop->After(LogProgram::kReadyMillis, [self = shared_from_this()] {
      self->timer = 0;
      SendSignal(self->program->pidfd_.get(), SIGKILL);
      self->End(MakeError(Code::kDeadlineExceeded, "log program '{}' was not ready within {} ms", self->name, LogProgram::kReadyMillis));
    });
    return {};
  }

  void OnReady() {
    pollfd ended = {program->pidfd_.get(), POLLIN, 0};
    if (poll(&ended, 1, 0) == 1) return End(MakeError(Code::kFailedPrecondition, "log program '{}' has ended before it was ready", name));
    End(program);
  }

  void End(Result<std::shared_ptr<LogProgram>> result) {
    auto keep = shared_from_this();
    if (timer != 0) loop->CancelTimer(timer);
    loop->Unwatch(ready.get());
    ready.Reset();
    program.reset();
    std::exchange(done, nullptr)(std::move(result));
  }
};

Result<std::vector<std::string>> ParseLogUri(const std::string& uri) {
  if (!LogProgram::IsUri(uri) || uri.size() > kMaxUriBytes || uri.find('\0') != std::string::npos) {
    return MakeError(Code::kInvalidArgument, "stdio '{}' is no log program", uri.substr(0, 256));
  }
  auto words = ParseParts(std::string_view(uri).substr(kScheme.size()));
  if (!words) return std::move(words.error()).Within(fmt::format("stdio '{}'", uri.substr(0, 256)));
  return words;
}

void LogProgram::Start(sys::EventLoop* loop, const std::string& uri, const std::string& container_id, const std::string& containerd_namespace,
                       Ready ready) {
  auto start = std::make_shared<LogProgramStart>();
  start->loop = loop;
  auto begun = start->Spawn(uri, container_id, containerd_namespace);
  if (begun) begun = start->Await();
  if (!begun) return ready(std::move(begun.error()));
  start->done = std::move(ready);
}

void LogProgram::StartFor(sys::EventLoop* loop, const std::string& out_path, const std::string& err_path, const std::string& container_id,
                          const std::string& containerd_namespace, Ready ready) {
  const bool out = IsUri(out_path), err = IsUri(err_path);
  if (!out && !err) return ready(std::shared_ptr<LogProgram>());
  if (out && err && out_path != err_path) {
    return ready(MakeError(Code::kInvalidArgument, "container '{}': its stdout and stderr go to two log programs", container_id));
  }
  Start(loop, out ? out_path : err_path, container_id, containerd_namespace, std::move(ready));
}

LogProgram::~LogProgram() {
  out.Reset();
  err.Reset();
  loop_->After(kEndMillis, [pidfd = std::make_shared<UniqueFd>(std::move(pidfd_))] { SendSignal(pidfd->get(), SIGTERM); });
}

}  // namespace caisson::task

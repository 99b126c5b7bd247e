// SPDX-License-Identifier: Apache-2.0
#include "ocicli/stdio.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cstdlib>
#include <span>

#include "base/scope_exit.h"
#include "base/strings.h"
#include "sys/fd_message.h"

namespace caisson::ocicli {
namespace {

constexpr unsigned kMaxPreserved = 4096;

Result<UniqueFd> Duplicate(int number) {
  UniqueFd copy(fcntl(number, F_DUPFD_CLOEXEC, 3));
  if (!copy && errno != EBADF) return ErrnoError("duplicate descriptor {}", number);
  return copy;
}

sigset_t Forwarded() {
  sigset_t set;
  sigemptyset(&set);
  for (int number : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGALRM}) sigaddset(&set, number);
  return set;
}

// What is typed goes to the pty as it is, and the terminal is as it was in the end.
class RawTerminal {
 public:
  RawTerminal() {
    if (tcgetattr(0, &before_) != 0) return;
    termios raw = before_;
    cfmakeraw(&raw);
    changed_ = tcsetattr(0, TCSANOW, &raw) == 0;
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  ~RawTerminal() {
    if (changed_) tcsetattr(0, TCSANOW, &before_);
  }

 private:
  termios before_{};
  bool changed_ = false;
};

void CopySize(int master) {
  winsize size{};
  if (ioctl(0, TIOCGWINSZ, &size) == 0) ioctl(master, TIOCSWINSZ, &size);
}

void WriteAll(int fd, const char* bytes, ssize_t size) {
  while (size > 0) {
    ssize_t wrote = write(fd, bytes, static_cast<size_t>(size));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return;
    bytes += wrote;
    size -= wrote;
  }
}

class Foreground {
 public:
  explicit Foreground(const oci::Process& process) : process_(process), master_(process.console ? process.console.get() : -1) {}

  Result<int> Wait() {
    sigset_t set = Forwarded();
    UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals) return ErrnoError("signalfd");
    if (master_ >= 0) {
      CopySize(master_);
      fcntl(master_, F_SETFL, fcntl(master_, F_GETFL) | O_NONBLOCK);
    }
    for (;;) {
      short out = pending_.empty() ? 0 : POLLOUT;
      bool read_input = master_ >= 0 && input_ && pending_.empty();
      pollfd polled[] = {{process_.pidfd.get(), POLLIN, 0},
                         {signals.get(), POLLIN, 0},
                         {read_input ? 0 : -1, POLLIN, 0},
                         {hung_up_ ? -1 : master_, static_cast<short>(POLLIN | out), 0}};
      if (poll(polled, 4, -1) < 0 && errno != EINTR) return ErrnoError("wait for the process");
      if (polled[1].revents != 0) Forward(signals.get());
      if (polled[2].revents != 0) ReadInput();
      if (polled[3].revents != 0) ServeMaster();
      if (polled[0].revents != 0) break;
    }
    if (master_ >= 0) ServeMaster();  // what it has said last
    siginfo_t info{};
    if (waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(process_.pidfd.get()), &info, WEXITED) != 0)
      return ErrnoError("reap process {}", process_.pid);
    return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
  }

 private:
  void Forward(int signals) {
    signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGWINCH && master_ >= 0) {
        CopySize(master_);
      } else {
        syscall(SYS_pidfd_send_signal, process_.pidfd.get(), info.ssi_signo, nullptr, 0);
      }
    }
  }

  void ReadInput() {
    char bytes[4096];
    ssize_t got = read(0, bytes, sizeof bytes);
    if (got > 0) pending_.assign(bytes, static_cast<size_t>(got));
    if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) input_ = false;
  }

  void ServeMaster() {
    if (!pending_.empty()) {
      ssize_t wrote = write(master_, pending_.data(), pending_.size());
      if (wrote > 0) pending_.erase(0, static_cast<size_t>(wrote));
      if (wrote < 0 && errno != EAGAIN && errno != EINTR) pending_.clear();
    }
    char bytes[8192];
    for (;;) {
      ssize_t got = read(master_, bytes, sizeof bytes);
      if (got > 0) {
        WriteAll(1, bytes, got);
        continue;
      }
      // EIO: nobody has the slave open (any more).
      if (got == 0 || (errno != EAGAIN && errno != EINTR)) hung_up_ = true;
      return;
    }
  }

  const oci::Process& process_;
  int master_;
  bool input_ = true, hung_up_ = false;
  std::string pending_;  // typed, not yet taken
};

}  // namespace

Result<oci::Stdio> OwnStdio() {
  oci::Stdio stdio;
  stdio.in = TRY(Duplicate(0));
  stdio.out = TRY(Duplicate(1));
  stdio.err = TRY(Duplicate(2));
  return stdio;
}

Result<unsigned> PreservedDescriptors(const Flags& flags, std::vector<std::string>* env) {
  uint64_t count = 0;
  if (flags.Given("preserve-fds")) count = TRY(ParseUint64(flags.Text("preserve-fds")));
  const char* listen = std::getenv("LISTEN_FDS");
  uint64_t activated = 0;
  if (listen != nullptr && *listen != '\0') {
    auto parsed = ParseUint64(listen);
    if (parsed) activated = *parsed;
  }
  if (count > kMaxPreserved || activated > kMaxPreserved)
    return MakeError(Code::kInvalidArgument, "more than {} descriptors to preserve", kMaxPreserved);
  if (activated > 0) {
    env->push_back(fmt::format("LISTEN_FDS={}", activated));
    env->push_back("LISTEN_PID=1");
  }
  count += activated;
  for (uint64_t number = 3; number < 3 + count; ++number) {
    if (fcntl(static_cast<int>(number), F_GETFD) < 0)
      return MakeError(Code::kInvalidArgument, "descriptor {} is to be preserved, but is not open", number);
  }
  return static_cast<unsigned>(count);
}

Result<> CheckConsole(const Flags& flags, bool terminal, bool detached) {
  bool socket = flags.Given("console-socket") && !flags.Text("console-socket").empty();
  if (terminal && detached && !socket)
    return MakeError(Code::kInvalidArgument, "a terminal of a process that outlives this command needs --console-socket");
  if (socket && (!terminal || !detached))
    return MakeError(Code::kInvalidArgument, "--console-socket is for the terminal of a process that outlives this command");
  return {};
}

Result<> SendConsole(const std::string& path, int master) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return MakeError(Code::kInvalidArgument, "console socket '{}': a socket's path has at most {} bytes", path, sizeof address.sun_path - 1);
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket || connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return ErrnoError("connect to console socket '{}'", path);
  int number = 0;
  ioctl(master, TIOCGPTN, &number);
  std::string name = fmt::format("/dev/pts/{}", number);
  if (sys::SendFds(socket.get(), name, std::span(&master, 1)) < 0) return ErrnoError("send the pty to console socket '{}'", path);
  return {};
}

void HoldSignals() {
  sigset_t set = Forwarded();
  sigprocmask(SIG_BLOCK, &set, nullptr);
}

void TakeTerminalSize(oci::ProcessSpec* process) {
  winsize size{};
  if (!process->terminal || process->console_width != 0 || process->console_height != 0 || ioctl(0, TIOCGWINSZ, &size) != 0) return;
  process->console_width = size.ws_col;
  process->console_height = size.ws_row;
}

Result<int> WaitInForeground(const oci::Process& process) {
  if (!process.console) return Foreground(process).Wait();
  RawTerminal raw;
  return Foreground(process).Wait();
}

}  // namespace caisson::ocicli

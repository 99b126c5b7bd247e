// SPDX-License-Identifier: Apache-2.0
#include "cri/shim_client.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {  // glibc 2.36's header forgets to say so
#include <sys/pidfd.h>
}

#include <atomic>
#include <thread>

#include "base/clock.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "sys/path.h"
#include "sys/proc_text.h"

namespace caisson::cri {
namespace {

constexpr const char* kSocketName = "shim.sock";
constexpr const char* kLogName = "shim.log";
constexpr const char* kPidName = "shim.pid";  // "<pid> <start ticks>"
// Enough that a companion that is stopped for a while does not refuse a daemon that comes back.
constexpr int kBacklog = 64;
constexpr int64_t kLastWordsMillis = 200;

Result<UniqueFd> OpenDir(const std::string& path) {
  UniqueFd dir(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return ErrnoError("open '{}'", path);
  return dir;
}

// sun_path holds 108 bytes and a pod's folder may be longer, so the name goes through the folder's descriptor.
sockaddr_un SocketAddress(int dir) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", dir, kSocketName);
  return address;
}

Result<UniqueFd> ListenIn(int dir) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return ErrnoError("socket");
  sockaddr_un address = SocketAddress(dir);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoError("bind the companion's socket");
  }
  if (listen(fd.get(), kBacklog) != 0) return ErrnoError("listen on the companion's socket");
  return fd;
}

Result<UniqueFd> ConnectIn(int dir) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return ErrnoError("socket");
  sockaddr_un address = SocketAddress(dir);
  // On a unix socket this succeeds at once or not at all, whether or not the companion has accepted yet.
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoError("connect to the companion's socket");
  }
  return fd;
}

// Field 22 of /proc/PID/stat, counted after the last ')' because the name may hold anything; 0 if there is no such
// process.
uint64_t StartTicks(int pid) {
  constexpr size_t kStatBytes = 4096, kStartTime = 22 - 3;
  auto stat = sys::ReadFile(fmt::format("/proc/{}/stat", pid), kStatBytes);
  if (!stat) return 0;
  auto fields = sys::StatFields(*stat);
  return fields.size() > kStartTime ? ParseUint64(fields[kStartTime]).value_or(0) : 0;
}

Result<> WritePid(int dir, int pid, uint64_t ticks) {
  UniqueFd file(openat(dir, kPidName, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  std::string text = fmt::format("{} {}\n", pid, ticks);
  if (!file || write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return ErrnoError("write '{}'", kPidName);
  }
  return {};
}

// What a companion inherits: nothing that was meant for the daemon (NOTIFY_SOCKET) or may be secret (proxies).
std::vector<std::string> CompanionEnvironment() {
  std::vector<std::string> env;
  for (const char* name : {"PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS"}) {
    if (const char* value = getenv(name)) env.push_back(fmt::format("{}={}", name, value));
  }
  return env;
}

std::vector<char*> Pointers(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

// The child: stdin /dev/null, stdout and stderr `log`, descriptor 3 `listener` (or closed if -1), a session of its own,
// default signals.
Result<int> SpawnDetached(const std::string& program, std::vector<std::string> arguments, int log, int listener) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  ScopeExit free_them([&] {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  });
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, log, 1);
  posix_spawn_file_actions_adddup2(&actions, log, 2);
  if (listener >= 0) posix_spawn_file_actions_adddup2(&actions, listener, 3);
  posix_spawn_file_actions_addclosefrom_np(&actions, listener >= 0 ? 4 : 3);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  auto environment = CompanionEnvironment();
  auto argv = Pointers(arguments);
  auto envp = Pointers(environment);
  pid_t pid = -1;
  int error = posix_spawn(&pid, program.c_str(), &actions, &attributes, argv.data(), envp.data());
  if (error != 0) return SysError(error, fmt::format("start '{}'", program));
  return pid;
}

class Connection : public ShimClient {
 public:
  Connection(sys::EventLoop* loop, int pid, UniqueFd pidfd, uint64_t ticks, int64_t timeout_millis)
      : loop_(loop), pid_(pid), ticks_(ticks), pidfd_(std::make_shared<UniqueFd>(std::move(pidfd))) {
    default_timeout_millis_ = timeout_millis;
  }

  ~Connection() override {
    Close();
    loop_->Post([loop = loop_, pidfd = pidfd_] { loop->Unwatch(pidfd->get()); });
  }

  Result<> Init(UniqueFd socket, const std::shared_ptr<Connection>& self, std::function<void(bool died)> on_end) {
    client_ = TRY(ttrpc::Client::Create(loop_, std::move(socket)));
    std::weak_ptr<Connection> weak = self;
    client_->OnClosed([weak, on_end] {
      auto connection = weak.lock();
      if (connection && !connection->closing_ && !connection->gone()) on_end(false);
    });
    loop_->Post([self, weak, on_end] {
      // pidfd_open(2): a pidfd becomes readable when its process ends.
      auto watched = self->loop_->Watch(self->pidfd_->get(), EPOLLIN, [loop = self->loop_, pidfd = self->pidfd_, weak, on_end](uint32_t) {
        loop->Unwatch(pidfd->get());
        OnDeath(pidfd->get(), weak.lock(), on_end);
      });
      // A companion whose death would go unnoticed is not kept.
      if (!watched) self->client_->Close();
    });
    return {};
  }

  int pid() const override { return pid_; }
  uint64_t start_ticks() const override { return ticks_; }
  ttrpc::Client& ttrpc() override { return *client_; }
  bool gone() const override { return gone_ || WaitReadable(0); }
  bool WaitGone(int64_t millis) override { return gone_ || WaitReadable(static_cast<int>(millis)); }
  void Kill() override { pidfd_send_signal(pidfd_->get(), SIGKILL, nullptr, 0); }
  void Close() override {
    closing_ = true;
    if (client_) client_->Close();
  }

 private:
  static void OnDeath(int pidfd, const std::shared_ptr<Connection>& connection, const std::function<void(bool)>& on_end) {
    // Only a child of ours leaves a zombie to reap; for others waitid says ECHILD.
    siginfo_t info = {};
    waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG);
    if (!connection) return;
    connection->gone_ = true;
    // What it wrote before its death may still be in the socket: exits must not be lost. A process that inherited the
    // socket could keep it open, so not for long.
    connection->loop_->After(kLastWordsMillis, [client = connection->client_] { client->Close(); });
    connection->client_->OnClosed([on_end] { on_end(true); });
  }

  bool WaitReadable(int millis) const {
    pollfd watched = {pidfd_->get(), POLLIN, 0};
    Deadline deadline = Deadline::After(millis);
    int n;
    while ((n = poll(&watched, 1, deadline.RemainingMillis())) < 0 && errno == EINTR) {
    }
    return n == 1;
  }

  sys::EventLoop* const loop_;
  const int pid_;
  const uint64_t ticks_;
  const std::shared_ptr<UniqueFd> pidfd_;
  std::shared_ptr<ttrpc::Client> client_;
  std::atomic<bool> gone_ = false, closing_ = false;
};

class LoopShims : public Shims {
 public:
  LoopShims(std::unique_ptr<sys::EventLoop> loop, int64_t timeout_millis)
      : loop_(std::move(loop)), timeout_millis_(timeout_millis), thread_([this] { (void)loop_->Run(); }) {}

  ~LoopShims() override { Stop(); }

  void Stop() override {
    if (!thread_.joinable()) return;
    loop_->Stop();
    thread_.join();
  }

  void OnEnd(EndCallback callback) override { on_end_ = std::move(callback); }

  Result<std::shared_ptr<ShimClient>> Spawn(const SpawnOptions& options) override {
    UniqueFd dir = TRY(OpenDir(options.pod_dir));
    UniqueFd listener = TRY(ListenIn(dir.get()));
    UniqueFd log(openat(dir.get(), kLogName, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!log) return ErrnoError("open '{}/{}'", options.pod_dir, kLogName);
    std::vector<std::string> arguments = {options.program, "serve", "--id", options.pod_id, "--listen-fd", "3"};
    arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
    int pid = TRY(SpawnDetached(options.program, std::move(arguments), log.get(), listener.get()));
    listener.Reset();
    // Our child, not yet waited for: the pid cannot be another process's.
    UniqueFd pidfd(pidfd_open(pid, 0));
    ScopeExit kill_it([pid] {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    });
    if (!pidfd) return ErrnoError("pidfd_open of the companion");
    UniqueFd socket = TRY(ConnectIn(dir.get()));
    uint64_t ticks = StartTicks(pid);
    TRY(WritePid(dir.get(), pid, ticks));
    auto connection = TRY(Connect(options.pod_id, pid, std::move(pidfd), ticks, std::move(socket)));
    kill_it.Dismiss();
    return connection;
  }

  Result<std::shared_ptr<ShimClient>> Attach(const std::string& pod_id, const std::string& pod_dir, int pid,
                                             uint64_t start_ticks) override {
    UniqueFd pidfd(pid > 0 ? pidfd_open(pid, 0) : -1);
    // After the pidfd is open its process cannot be replaced by another of the same number.
    if (!pidfd || start_ticks == 0 || StartTicks(pid) != start_ticks) {
      return MakeError(Code::kNotFound, "the companion (pid {}) is gone", pid);
    }
    UniqueFd dir = TRY(OpenDir(pod_dir));
    UniqueFd socket = TRY(ConnectIn(dir.get()));
    return Connect(pod_id, pid, std::move(pidfd), start_ticks, std::move(socket));
  }

  Result<std::shared_ptr<ShimClient>> AttachByFile(const std::string& pod_id, const std::string& pod_dir) override {
    UniqueFd dir = TRY(OpenDir(pod_dir));
    UniqueFd file(openat(dir.get(), kPidName, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    char buffer[64] = {};
    if (!file || read(file.get(), buffer, sizeof buffer - 1) <= 0) {
      return MakeError(Code::kNotFound, "pod '{}' has no companion on record", pod_id);
    }
    auto words = Split(Trim(buffer), ' ');
    auto pid = ParseInt64(words.front()), ticks = ParseInt64(words.back());
    if (words.size() != 2 || !pid || !ticks || *pid <= 1 || *pid > INT32_MAX) {
      return MakeError(Code::kDataLoss, "'{}/{}' is damaged", pod_dir, kPidName);
    }
    return Attach(pod_id, pod_dir, static_cast<int>(*pid), static_cast<uint64_t>(*ticks));
  }

 private:
  Result<std::shared_ptr<ShimClient>> Connect(const std::string& pod_id, int pid, UniqueFd pidfd, uint64_t ticks,
                                              UniqueFd socket) {
    auto connection = std::make_shared<Connection>(loop_.get(), pid, std::move(pidfd), ticks, timeout_millis_);
    TRY(connection->Init(std::move(socket), connection, [this, pod_id](bool died) {
      if (on_end_) on_end_(pod_id, died);
    }));
    return std::shared_ptr<ShimClient>(connection);
  }

  std::unique_ptr<sys::EventLoop> loop_;
  const int64_t timeout_millis_;
  EndCallback on_end_;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Shims>> Shims::Create(int64_t default_timeout_millis) {
  auto loop = TRY(sys::EventLoop::Create());
  return std::unique_ptr<Shims>(std::make_unique<LoopShims>(std::move(loop), default_timeout_millis));
}

Result<> RunCompanionCommand(const std::string& program, const std::vector<std::string>& arguments,
                             const std::string& log_path, int64_t deadline_millis) {
  UniqueFd log(open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!log) return ErrnoError("open '{}'", log_path);
  std::vector<std::string> words = {program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  int pid = TRY(SpawnDetached(program, std::move(words), log.get(), -1));
  UniqueFd pidfd(pidfd_open(pid, 0));
  pollfd watched = {pidfd.get(), POLLIN, 0};
  Deadline deadline = Deadline::After(deadline_millis);
  int ready;
  while ((ready = poll(&watched, 1, deadline.RemainingMillis())) < 0 && errno == EINTR) {
  }
  if (ready != 1) kill(pid, SIGKILL);
  int status = 0;
  waitpid(pid, &status, 0);
  if (ready != 1) return MakeError(Code::kDeadlineExceeded, "'{} {}' did not end in time", program, arguments.front());
  if (status != 0) {
    return MakeError(Code::kInternal, "'{} {}' failed (wait status {}); see '{}'", program, arguments.front(), status,
                     log_path);
  }
  return {};
}

}  // namespace caisson::cri

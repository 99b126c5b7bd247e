// SPDX-License-Identifier: Apache-2.0
#include "sys/command.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>

#include "base/scope_exit.h"
#include "base/unique_fd.h"

namespace caisson::sys {
namespace {

constexpr size_t kStderrBytes = 16 << 10;
// A killed process ends as soon as it leaves the kernel; one that hangs in there (a dead NFS) is left behind.
constexpr int64_t kKillMillis = 5'000;

// A descriptor above stdio, so that the dup2 calls of the child cannot overwrite one another's source.
Result<UniqueFd> AboveStdio(UniqueFd fd) {
  if (fd.get() > STDERR_FILENO) return fd;
  UniqueFd higher(fcntl(fd.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!higher) return ErrnoError("duplicate a descriptor");
  return higher;
}

struct Pipe {
  UniqueFd read, write;
};
Result<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("make a pipe");
  Pipe pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
  pipe.write = TRY(AboveStdio(std::move(pipe.write)));
  // Only our end: O_NONBLOCK belongs to the open file, and the two ends are two of them.
  if (fcntl(pipe.read.get(), F_SETFL, O_NONBLOCK) != 0) return ErrnoError("make a pipe non-blocking");
  return pipe;
}

// The input as a memory file: nothing to write while the program runs, no SIGPIPE if it does not read.
Result<UniqueFd> MakeInput(std::string_view input) {
  UniqueFd fd(memfd_create("stdin", MFD_CLOEXEC));
  if (!fd) return ErrnoError("make a memory file");
  while (!input.empty()) {
    ssize_t put = write(fd.get(), input.data(), input.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return ErrnoError("write a memory file");
    input.remove_prefix(static_cast<size_t>(put));
  }
  if (lseek(fd.get(), 0, SEEK_SET) != 0) return ErrnoError("rewind a memory file");
  return AboveStdio(std::move(fd));
}

// Reads what is there. Bytes beyond `limit` are dropped and `*over` says so. False at the end of the stream.
bool Drain(int fd, size_t limit, std::string* text, bool* over) {
  char buffer[16 << 10];
  for (;;) {
    ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    size_t keep = std::min(static_cast<size_t>(got), limit - text->size());
    text->append(buffer, keep);
    if (keep < static_cast<size_t>(got)) {
      *over = true;
      return true;  // an endless writer must not keep us here
    }
  }
}

std::vector<char*> Pointers(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Whatever of it is refused is no reason not to run.
void Yield(pid_t pid) {
  constexpr int kNice = 10;
  constexpr int kWhoProcess = 1, kBestEffortLowest = 2 << 13 | 7;  // ioprio_set(2)
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(pid), kNice);
  (void)syscall(SYS_ioprio_set, kWhoProcess, pid, kBestEffortLowest);
}

class Run {
 public:
  explicit Run(const Command& command) : command_(command), path_(command.argv.front()) {}
  Result<> Start();
  Result<CommandOutput> Finish(const Deadline& deadline);
  ~Run() {
    if (pid_ > 0) Kill();
  }

 private:
  bool WaitFor(const Deadline& deadline, bool* too_much);
  void Kill();
  bool Reap(int* status);

  const Command& command_;
  const std::string& path_;
  pid_t pid_ = 0;  // 0: not running or reaped
  UniqueFd pidfd_, out_, err_, stopped_;
  CommandOutput output_;
};

Result<> Run::Start() {
  UniqueFd in = TRY(MakeInput(command_.input));
  stopped_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stopped_) return ErrnoError("make an eventfd");
  Pipe out = TRY(MakePipe()), err = TRY(MakePipe());

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  ScopeExit destroy([&] {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  });
  posix_spawn_file_actions_adddup2(&actions, in.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out.write.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.write.get(), STDERR_FILENO);
  if (!command_.directory.empty()) posix_spawn_file_actions_addchdir_np(&actions, command_.directory.c_str());
  // A library of the daemon may have opened something without O_CLOEXEC.
  posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  std::vector<char*> argv = Pointers(command_.argv), env = Pointers(command_.environment);
  pid_t pid = 0;
  if (int error = posix_spawn(&pid, path_.c_str(), &actions, &attributes, argv.data(), env.data()); error != 0) {
    return SysError(error, fmt::format("run '{}'", path_));
  }
  pid_ = pid;
  if (command_.background) Yield(pid);
  out_ = std::move(out.read);
  err_ = std::move(err.read);
  pidfd_.Reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd_) return ErrnoError("pidfd of '{}'", path_);
  return {};
}

// True when the program has ended by itself. Its children may still hold its stdout: that is no reason to wait.
bool Run::WaitFor(const Deadline& deadline, bool* too_much) {
  bool ignored = false;
  for (;;) {
    pollfd watched[] = {
        {pidfd_.get(), POLLIN, 0}, {out_.get(), POLLIN, 0}, {err_.get(), POLLIN, 0}, {stopped_.get(), POLLIN, 0}};
    int ready = poll(watched, std::size(watched), deadline.RemainingMillis());
    if (ready < 0 && errno != EINTR) return false;
    if (ready > 0 && watched[1].revents && !Drain(out_.get(), command_.max_out_bytes, &output_.out, too_much)) {
      out_.Reset();
    }
    if (ready > 0 && watched[2].revents && !Drain(err_.get(), kStderrBytes, &output_.err, &ignored)) err_.Reset();
    if (*too_much || command_.stop.stop_requested()) return false;
    if (ready > 0 && watched[0].revents) {
      // What it wrote between the reads above and its end.
      if (out_) Drain(out_.get(), command_.max_out_bytes, &output_.out, too_much);
      if (err_) Drain(err_.get(), kStderrBytes, &output_.err, &ignored);
      return !*too_much;
    }
    if (deadline.Passed()) return false;
  }
}

bool Run::Reap(int* status) {
  pid_t got;
  do {
    got = waitpid(pid_, status, 0);
  } while (got < 0 && errno == EINTR);
  pid_ = 0;
  return got > 0;
}

void Run::Kill() {
  // The leader is not reaped yet, so its id still names this group and no other.
  kill(-pid_, SIGKILL);
  if (!pidfd_) {
    int status;
    Reap(&status);
    return;
  }
  Deadline deadline = Deadline::After(kKillMillis);
  pollfd watched = {pidfd_.get(), POLLIN, 0};
  while (poll(&watched, 1, deadline.RemainingMillis()) < 0 && errno == EINTR) {
  }
  int status;
  if (watched.revents) Reap(&status);
  pid_ = 0;
}

Result<CommandOutput> Run::Finish(const Deadline& deadline) {
  bool too_much = false;
  std::stop_callback wake(command_.stop, [this] { eventfd_write(stopped_.get(), 1); });
  if (!WaitFor(deadline, &too_much)) {
    Kill();
    if (too_much) {
      return MakeError(Code::kResourceExhausted, "'{}' wrote more than {} bytes and was killed", path_,
                       command_.max_out_bytes);
    }
    if (command_.stop.stop_requested()) return MakeError(Code::kCancelled, "'{}' was stopped", path_);
    return MakeError(Code::kDeadlineExceeded, "'{}' did not end in time and was killed", path_);
  }
  int status = 0;
  if (!Reap(&status)) return ErrnoError("wait for '{}'", path_);
  output_.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  output_.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return std::move(output_);
}

}  // namespace

Result<CommandOutput> RunCommand(const Command& command, const Deadline& deadline) {
  if (command.argv.empty()) return MakeError(Code::kInvalidArgument, "no program to run");
  Run run(command);
  TRY(run.Start());
  return run.Finish(deadline);
}

}  // namespace caisson::sys

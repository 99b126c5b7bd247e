// SPDX-License-Identifier: Apache-2.0
#include "oci/runtime_program.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "oci/clone.h"
#include "sys/command.h"
#include "sys/fd_message.h"
#include "sys/path.h"

namespace caisson::oci {
namespace {

constexpr int64_t kVersionMillis = 10'000;
constexpr size_t kSaidBytes = 2048;
constexpr char kConsoleName[] = "console.sock";

std::vector<std::string> Environment() {
  std::vector<std::string> all;
  for (char** variable = environ; *variable != nullptr; ++variable) all.emplace_back(*variable);
  return all;
}

std::vector<std::string> CommandLine(const RuntimeProgram& runtime, const std::vector<std::string>& command, const std::string& log) {
  std::vector<std::string> argv = {runtime.program};
  argv.insert(argv.end(), runtime.arguments.begin(), runtime.arguments.end());
  argv.insert(argv.end(), {"--root", runtime.root, "--log", log, "--log-format", "json"});
  if (runtime.systemd_cgroup) argv.emplace_back("--systemd-cgroup");
  argv.insert(argv.end(), command.begin(), command.end());
  return argv;
}

Error Failed(const RuntimeProgram& runtime, const std::string& verb, const std::string& said) {
  return MakeError(Code::kInternal, "'{} {}': {}", runtime.program, verb, said);
}

// Above stdio, so that the child's dup2 calls do not overwrite one another's source.
Result<UniqueFd> Above(const UniqueFd& fd) {
  int from = fd.get();
  UniqueFd null;
  if (!fd) {
    null = UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!null) return ErrnoError("open '/dev/null'");
    from = null.get();
  }
  UniqueFd copy(fcntl(from, F_DUPFD_CLOEXEC, 3));
  if (!copy) return ErrnoError("duplicate a descriptor");
  return copy;
}

Result<pid_t> Spawn(const std::vector<std::string>& argv, const Stdio& stdio) {
  UniqueFd in = TRY(Above(stdio.in)), out = TRY(Above(stdio.out)), err = TRY(Above(stdio.err));
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  ScopeExit destroy([&] {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  });
  posix_spawn_file_actions_adddup2(&actions, in.get(), 0);
  posix_spawn_file_actions_adddup2(&actions, out.get(), 1);
  posix_spawn_file_actions_adddup2(&actions, err.get(), 2);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> pointers;
  for (const std::string& word : argv) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  pid_t pid = 0;
  if (int error = posix_spawn(&pid, argv[0].c_str(), &actions, &attributes, pointers.data(), environ); error != 0) {
    return SysError(error, fmt::format("run '{}'", argv[0]));
  }
  return pid;
}

}  // namespace

std::string SaidIn(const std::string& log, const std::string& otherwise) {
  auto text = sys::ReadFile(log, limits::kJsonBytes);
  std::string said;
  if (text) {
    for (std::string_view line : Split(*text, '\n')) {
      auto parsed = ParseJson(line);
      if (!parsed || !parsed->is_object()) continue;
      auto level = parsed->find("level"), message = parsed->find("msg");
      if (message == parsed->end() || !message->is_string()) continue;
      if (level != parsed->end() && level->is_string() && *level != "error" && *level != "fatal") continue;
      said = message->get<std::string>();
    }
  }
  if (said.empty()) return otherwise;
  return said.substr(0, kSaidBytes);
}

Result<> Identify(RuntimeProgram* runtime) {
  sys::Command command;
  command.argv = {runtime->program, "--version"};
  command.environment = Environment();
  command.max_out_bytes = 64 << 10;
  auto ran = sys::RunCommand(command, Deadline::After(kVersionMillis));
  if (!ran) return std::move(ran.error()).Within(fmt::format("'{} --version'", runtime->program));
  if (ran->exit_code != 0 || ran->signal != 0) {
    return MakeError(Code::kFailedPrecondition, "'{} --version' failed: {}", runtime->program, Trim(ran->err.substr(0, kSaidBytes)));
  }
  runtime->sandboxed = ran->out.starts_with("runsc ");
  return {};
}

Result<Process> StartRuntime(const RuntimeProgram& runtime, const std::vector<std::string>& command, const std::string& log, const Stdio& stdio) {
  unlink(log.c_str());
  Process process;
  process.pid = TRY(Spawn(CommandLine(runtime, command, log), stdio));
  process.pidfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, process.pid, 0)));
  if (process.pidfd) return process;
  Error error = ErrnoError("open a process");
  kill(-process.pid, SIGKILL);
  waitpid(process.pid, nullptr, 0);
  return error;
}

Result<> RunRuntime(const RuntimeProgram& runtime, const std::vector<std::string>& command, const std::string& log, const Stdio& stdio,
                    int64_t deadline_millis) {
  Process process = TRY(StartRuntime(runtime, command, log, stdio));
  auto status = Reap(process.pidfd.get(), deadline_millis);
  if (!status) {
    kill(-process.pid, SIGKILL);
    KillAndReap(process.pidfd.get());
    return MakeError(Code::kDeadlineExceeded, "'{} {}' has not ended within {} s", runtime.program, command[0], deadline_millis / 1000);
  }
  if (*status == 0) return {};
  return Failed(runtime, command[0], SaidIn(log, fmt::format("it ended with status {}", *status)));
}

Result<std::string> AskRuntime(const RuntimeProgram& runtime, const std::vector<std::string>& command, const std::string& log, int64_t deadline_millis) {
  unlink(log.c_str());
  sys::Command run;
  run.argv = CommandLine(runtime, command, log);
  run.environment = Environment();
  run.max_out_bytes = limits::kJsonBytes;
  auto ran = TRY(sys::RunCommand(run, Deadline::After(deadline_millis)));
  if (ran.exit_code == 0 && ran.signal == 0) return std::move(ran.out);
  return Failed(runtime, command[0], SaidIn(log, std::string(Trim(ran.err.substr(0, kSaidBytes)))));
}

// sun_path has 108 bytes: the runtime is given the way by a descriptor of ours, the folder's.
Result<ConsoleSocket> ConsoleSocket::Listen(const std::string& folder) {
  ConsoleSocket made;
  made.folder_ = UniqueFd(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!made.folder_) return ErrnoError("open '{}'", folder);
  made.path_ = fmt::format("/proc/{}/fd/{}/{}", getpid(), made.folder_.get(), kConsoleName);
  unlinkat(made.folder_.get(), kConsoleName, 0);
  made.listener_ = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  made.path_.copy(address.sun_path, sizeof address.sun_path - 1);
  if (!made.listener_ || bind(made.listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(made.listener_.get(), 1) != 0) {
    return ErrnoError("listen for a terminal in '{}'", folder);
  }
  return made;
}

ConsoleSocket::~ConsoleSocket() {
  if (folder_) unlinkat(folder_.get(), kConsoleName, 0);
}

Result<UniqueFd> ConsoleSocket::Take(int64_t deadline_millis) {
  Deadline deadline = Deadline::After(deadline_millis);
  auto await = [&](int fd) {
    pollfd wait{fd, POLLIN, 0};
    int ready;
    while ((ready = poll(&wait, 1, deadline.RemainingMillis())) < 0 && errno == EINTR) {
    }
    return ready == 1;
  };
  Error late = MakeError(Code::kDeadlineExceeded, "the runtime has delivered no terminal");
  if (!await(listener_.get())) return late;
  UniqueFd connection(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!connection) return ErrnoError("accept a terminal");
  if (!await(connection.get())) return late;
  char name[4096];
  std::vector<UniqueFd> fds;
  ssize_t got = sys::ReceiveFds(connection.get(), name, sizeof name, &fds);
  if (got < 0 && errno != EMSGSIZE) return ErrnoError("take a terminal");
  if (got <= 0 || fds.size() != 1 || !isatty(fds[0].get())) return MakeError(Code::kInternal, "the runtime has sent something that is no terminal");
  return std::move(fds[0]);
}

}  // namespace caisson::oci

// SPDX-License-Identifier: Apache-2.0
//
// A backend of the streaming server for its tests: "containers" are processes of this host and "pods" its loopback
// addresses. Counts what it gave out, so that a test sees what was not given back.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <mutex>
#include <thread>
#include <vector>

#include "stream/server.h"

namespace caisson::stream::testing {

class LocalBackend : public Backend {
 public:
  ~LocalBackend() override {
    for (std::thread& thread : threads_) thread.join();
  }

  void Exec(const ExecTarget& target, std::function<void(Result<Process>)> done) override {
    ++calls;
    if (target.container_id == "refused") return done(MakeError(Code::kNotFound, "container 'refused' is not running"));
    if (target.container_id == "never") {
      std::lock_guard lock(mutex_);
      pending_.push_back(std::move(done));
      return;
    }
    done(Spawn(target));
  }
  // Attachment: the same, but without an exit code of its own.
  void Attach(const ExecTarget& target, std::function<void(Result<Process>)> done) override {
    ++calls;
    ExecTarget shell = target;
    if (shell.args.empty()) shell.args = {"/bin/cat"};
    auto process = Spawn(shell);
    if (process) process->wait = nullptr;
    done(std::move(process));
  }
  void Connect(const std::string& pod_id, uint16_t port, std::function<void(Result<UniqueFd>)> done) override {
    ++calls;
    if (pod_id == "never") {
      std::lock_guard lock(mutex_);
      pending_connections_.push_back(std::move(done));
      return;
    }
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) {
      return done(ErrnoError("connect to port {}", port));
    }
    done(std::move(fd));
  }

  // Answers what was asked of container or pod "never".
  void AnswerPending(const ExecTarget& target) {
    std::vector<std::function<void(Result<Process>)>> pending;
    std::vector<std::function<void(Result<UniqueFd>)>> connections;
    {
      std::lock_guard lock(mutex_);
      pending.swap(pending_);
      connections.swap(pending_connections_);
    }
    for (auto& done : pending) done(Spawn(target));
    for (auto& done : connections) done(UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)));
  }

  std::atomic<int> calls{0}, running{0};  // running: processes whose `end` was not called
  std::atomic<int> width{0}, height{0};

 private:
  Result<Process> Spawn(const ExecTarget& target) {
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, master = -1, slave = -1;
    if (target.tty) {
      if (openpty(&master, &slave, nullptr, nullptr, nullptr) != 0) return ErrnoError("openpty");
      fcntl(master, F_SETFD, FD_CLOEXEC);
    } else if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) {
      return ErrnoError("pipe");
    }
    std::vector<char*> argv;
    for (const std::string& arg : target.args) argv.push_back(const_cast<char*>(arg.c_str()));
    argv.push_back(nullptr);
    pid_t pid = fork();
    if (pid == 0) {
      setsid();
      if (target.tty) ioctl(slave, TIOCSCTTY, 0);
      dup2(target.tty ? slave : in[0], 0);
      dup2(target.tty ? slave : out[1], 1);
      dup2(target.tty ? slave : err[1], 2);
      if (slave > 2) close(slave);
      signal(SIGPIPE, SIG_DFL);
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    Process process;
    if (target.tty) {
      close(slave);
      process.in = UniqueFd(fcntl(master, F_DUPFD_CLOEXEC, 3));
      process.out = UniqueFd(fcntl(master, F_DUPFD_CLOEXEC, 3));
      auto control = std::make_shared<UniqueFd>(master);
      process.resize = [this, control](uint16_t columns, uint16_t rows) {
        winsize size = {rows, columns, 0, 0};
        ioctl(control->get(), TIOCSWINSZ, &size);
        width = columns;
        height = rows;
      };
    } else {
      close(in[0]);
      close(out[1]);
      close(err[1]);
      process.in = UniqueFd(in[1]);
      process.out = UniqueFd(out[0]);
      process.err = UniqueFd(err[0]);
      if (!target.in) process.in.Reset();
      if (!target.out) process.out.Reset();
      if (!target.err) process.err.Reset();
    }
    ++running;
    process.wait = [this, pid](std::function<void(Result<int>)> done) {
      std::lock_guard lock(mutex_);
      threads_.emplace_back([pid, done] {
        siginfo_t info = {};
        waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT);
        done(info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status);
      });
    };
    process.end = [this, pid] {
      kill(pid, SIGKILL);
      std::lock_guard lock(mutex_);
      threads_.emplace_back([this, pid] {
        int status;
        waitpid(pid, &status, 0);
        --running;
      });
    };
    return process;
  }

  std::mutex mutex_;
  std::vector<std::thread> threads_;
  std::vector<std::function<void(Result<Process>)>> pending_;
  std::vector<std::function<void(Result<UniqueFd>)>> pending_connections_;
};

}  // namespace caisson::stream::testing

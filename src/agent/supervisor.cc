// SPDX-License-Identifier: Apache-2.0
#include "agent/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <optional>
#include <set>
#include <utility>

#include "agent/launch_socket.h"
#include "base/clock.h"
#include "base/log.h"
#include "oci/clone.h"

namespace caisson::agent {
namespace {

uint32_t StatusOf(const siginfo_t& info) {
  return static_cast<uint32_t>(info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status);
}

std::string DescribeEnd(const siginfo_t& info) {
  if (info.si_code == CLD_EXITED) return fmt::format("the agent ended with status {}", info.si_status);
  return fmt::format("the agent was killed by signal {} ({})", info.si_status, strsignal(info.si_status));
}

sigset_t Sigchld() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  return set;
}

class Supervisor {
 public:
  explicit Supervisor(SupervisorOptions options) : options_(std::move(options)) {
    sigset_t set = Sigchld();
    signals_ = UniqueFd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    own_pids_ = UniqueFd(open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC));
    // Nor are launchers, for they are copies: in a container's PID namespace one must not be looked into.
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  }

  std::string Run() {
    if (!signals_ || !own_pids_) return ErrnoError("prepare to supervise").message;
    for (;;) {
      // A messenger that has closed its socket is about to end: that is what is waited for.
      short events = static_cast<short>(POLLIN | (notices_.empty() ? 0 : POLLOUT));
      pollfd waits[] = {{signals_.get(), POLLIN, 0}, {hung_up_ ? -1 : options_.socket.get(), events, 0}};
      if (poll(waits, 2, -1) < 0 && errno != EINTR) return ErrnoError("wait for the agent").message;
      signalfd_siginfo ignored[8];
      while (read(signals_.get(), ignored, sizeof ignored) > 0) {
      }
      if (auto ended = Reap()) return *ended;
      Tell();
      if ((waits[1].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
      if (auto wrong = Listen()) return *wrong;
    }
  }

 private:
  std::optional<std::string> Reap() {
    for (;;) {
      siginfo_t info{};
      if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0) return std::nullopt;
      if (info.si_pid == options_.messenger) return DescribeEnd(info);
      if (info.si_pid == options_.settler || launchers_.erase(info.si_pid) > 0) continue;
      if (notices_.size() >= options_.notices) return "the agent does not listen";
      notices_.push_back({info.si_pid, StatusOf(info), NowNanos()});
    }
  }

  void Tell() {
    while (!notices_.empty() && !hung_up_) {
      auto sent = SendNotice(options_.socket.get(), notices_.front());
      hung_up_ = !sent;
      if (!sent || !*sent) return;
      notices_.pop_front();
    }
  }

  std::optional<std::string> Listen() {
    auto asked = TakeConnection(options_.socket.get());
    if (!asked) {
      hung_up_ = asked.error().code == Code::kUnavailable || asked.error().sys_errno == ECONNRESET;
      if (hung_up_) return std::nullopt;
      return asked.error().message;
    }
    if (!asked->connection) return std::nullopt;
    const Birthplace& place = asked->place;
    // Of a container that has ended: the messenger hears that nobody serves its connection.
    if (place.pid_namespace && setns(place.pid_namespace.get(), CLONE_NEWPID) != 0) return std::nullopt;
    auto launcher = oci::Clone(0, place.cgroup ? place.cgroup.get() : -1);
    if (launcher && launcher->pid == 0) {
      prctl(PR_SET_NAME, "caisson-launch", 0, 0, 0);
      signals_.Reset();
      own_pids_.Reset();
      options_.socket.Reset();
      asked->place = {};
      options_.launch(std::move(asked->connection));
      _exit(0);
    }
    if (place.pid_namespace && setns(own_pids_.get(), CLONE_NEWPID) != 0) return ErrnoError("go back to our PID namespace").message;
    if (!launcher) {
      log::Error("{}", std::move(launcher.error()).Within("start a launcher").message);
    } else if (!place.cgroup) {
      launchers_.insert(launcher->pid);  // the others become a container's processes
    }
    return std::nullopt;
  }

  SupervisorOptions options_;
  UniqueFd signals_, own_pids_;
  bool hung_up_ = false;
  std::set<pid_t> launchers_;
  std::deque<EndNotice> notices_;
};

}  // namespace

std::string Supervise(SupervisorOptions options) { return Supervisor(std::move(options)).Run(); }

void BlockSigchld() {
  sigset_t set = Sigchld();
  sigprocmask(SIG_BLOCK, &set, nullptr);
}

}  // namespace caisson::agent

// SPDX-License-Identifier: Apache-2.0
#include "agent/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <optional>
#include <set>
#include <utility>

#include "agent/launch_socket.h"
#include "base/log.h"
#include "oci/clone.h"

namespace caisson::agent {
namespace {

std::string DescribeEnd(const task::EndedProcess& ended) {
  if (ended.signal == 0) return fmt::format("the agent ended with status {}", ended.status);
  return fmt::format("the agent was killed by signal {} ({})", ended.signal, strsignal(ended.signal));
}

class Supervisor {
 public:
  explicit Supervisor(SupervisorOptions options) : options_(std::move(options)) {
    own_pids_ = UniqueFd(open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC));
    // Nor are launchers, for they are copies: in a container's PID namespace one must not be looked into.
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  }

  std::string Run() {
    if (!own_pids_) return ErrnoError("prepare to supervise").message;
    for (;;) {
      // A messenger that has closed its socket is about to end: that is what is waited for.
      short events = static_cast<short>(POLLIN | (notices_.empty() ? 0 : POLLOUT));
      pollfd waits[] = {{options_.children->fd(), POLLIN, 0}, {hung_up_ ? -1 : options_.socket.get(), events, 0}};
      if (poll(waits, 2, -1) < 0 && errno != EINTR) return ErrnoError("wait for the agent").message;
      if (auto ended = Reap()) return *ended;
      Tell();
      if ((waits[1].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
      if (auto wrong = Listen()) return *wrong;
    }
  }

 private:
  std::optional<std::string> Reap() {
    while (auto ended = options_.children->Next()) {
      if (ended->pid == options_.messenger) return DescribeEnd(*ended);
      if (ended->pid == options_.settler || launchers_.erase(ended->pid) > 0) continue;
      if (notices_.size() >= options_.notices) return "the agent does not listen";
      notices_.push_back(*ended);
    }
    return std::nullopt;
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
      options_.children.reset();
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
  UniqueFd own_pids_;
  bool hung_up_ = false;
  std::set<pid_t> launchers_;
  std::deque<task::EndedProcess> notices_;
};

}  // namespace

std::string Supervise(SupervisorOptions options) { return Supervisor(std::move(options)).Run(); }

}  // namespace caisson::agent

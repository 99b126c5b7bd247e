// SPDX-License-Identifier: Apache-2.0
#include "task/ended_processes.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "base/clock.h"

namespace caisson::task {
namespace {

class Children : public EndedProcesses {
 public:
  explicit Children(UniqueFd signals) : signals_(std::move(signals)) {}

  int fd() const override { return signals_.get(); }

  std::optional<EndedProcess> Next() override {
    // Before the look: what ends after it signals again.
    signalfd_siginfo ignored[8];
    while (read(signals_.get(), ignored, sizeof ignored) > 0) {
    }
    siginfo_t info{};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0) return std::nullopt;
    int signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
    return EndedProcess{info.si_pid, static_cast<uint32_t>(signal != 0 ? 128 + signal : info.si_status), signal, NowNanos()};
  }

 private:
  UniqueFd signals_;
};

}  // namespace

Result<std::unique_ptr<EndedProcesses>> OwnChildren() {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) return ErrnoError("become a child subreaper");
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  if (sigprocmask(SIG_BLOCK, &children, nullptr) != 0) return ErrnoError("block SIGCHLD");
  UniqueFd signals(signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return ErrnoError("signalfd");
  return std::unique_ptr<EndedProcesses>(new Children(std::move(signals)));
}

}  // namespace caisson::task

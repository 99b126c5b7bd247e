// SPDX-License-Identifier: Apache-2.0
#include "oci/clone.h"

#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/strings.h"
#include "sys/path.h"

namespace caisson::oci {

Result<Cloned> Clone(unsigned long flags, int cgroup_fd) {
  int pidfd = -1;
  clone_args args{};
  args.flags = flags | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  // With CLONE_PARENT the child signals as its sibling does (clone(2)).
  if (!(flags & CLONE_PARENT)) args.exit_signal = SIGCHLD;
  if (cgroup_fd >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(cgroup_fd);
  }
  long pid = syscall(SYS_clone3, &args, sizeof args);
  if (pid < 0) return ErrnoError("clone with flags {:#x}", static_cast<uint64_t>(args.flags));
  Cloned cloned;
  cloned.pid = static_cast<int>(pid);
  if (pid > 0) cloned.pidfd = UniqueFd(pidfd);
  return cloned;
}

Result<> AwaitEnd(int pidfd, int64_t deadline_millis) {
  Deadline deadline = Deadline::After(deadline_millis);
  for (;;) {
    pollfd wait{pidfd, POLLIN, 0};
    int ready = poll(&wait, 1, deadline.RemainingMillis());
    if (ready > 0) return {};
    if (ready == 0) return MakeError(Code::kDeadlineExceeded, "a process does not end");
    if (errno != EINTR) return ErrnoError("wait for a process");
  }
}

Result<int> Reap(int pidfd, int64_t deadline_millis) {
  TRY(AwaitEnd(pidfd, deadline_millis));
  siginfo_t info{};
  if (waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info, WEXITED) != 0)
    return ErrnoError("reap a process");
  return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

void KillAndReap(int pidfd) {
  if (pidfd < 0) return;
  syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
  (void)Reap(pidfd, 10'000);  // SIGKILL cannot be refused; a process in the kernel past this is init's to reap
}

Result<int> PidOf(int pidfd) {
  std::string text = TRY(sys::ReadFile(fmt::format("/proc/self/fdinfo/{}", pidfd), 4096));
  size_t at = text.find("\nPid:\t");
  auto pid =
      at == std::string::npos ? Result<int64_t>(0) : ParseInt64(text.substr(at + 6, text.find('\n', at + 6) - at - 6));
  if (!pid || *pid <= 0) return MakeError(Code::kAborted, "the process has ended");
  return static_cast<int>(*pid);
}

}  // namespace caisson::oci

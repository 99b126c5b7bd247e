// SPDX-License-Identifier: Apache-2.0
#include "task/pod_init.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/clock.h"
#include "oci/clone.h"
#include "oci/user_namespace.h"
#include "sys/empty_root.h"

namespace caisson::task {
namespace {

constexpr int64_t kReadyMillis = 10'000;
constexpr unsigned kNobody = 65534;
constexpr unsigned long kNewNamespaces = CLONE_NEWPID | CLONE_NEWNS;

bool DropCapabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  return syscall(SYS_capset, &header, none) == 0;
}

const char* GiveUpRights(bool ends_with_maker) {
  if (setgroups(0, nullptr) != 0) return "drop groups";
  // In a user namespace that has no such ids we stay its root, without its rights.
  bool mapped = setresgid(kNobody, kNobody, kNobody) == 0 && setresuid(kNobody, kNobody, kNobody) == 0;
  if (!mapped && (errno != EINVAL || !DropCapabilities())) return "become nobody";
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return "set no_new_privs";
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return "forbid tracing";
  // After the ids have changed, which clears it (prctl(2)).
  if (ends_with_maker && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return "ask to end with its maker";
  return nullptr;
}

[[noreturn]] void RunPodInit(int ready, bool ends_with_maker) {
  setsid();
  prctl(PR_SET_NAME, "caisson-init", 0, 0, 0);
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_SETMASK, &children, nullptr);
  const char* failed = sys::EnterEmptyRoot();
  if (failed == nullptr) failed = GiveUpRights(ends_with_maker);
  // An answer that nobody reads (EPIPE) means that the maker died before it could be asked to end with us.
  char code = failed == nullptr ? 'r' : 'f';
  if (write(ready, &code, 1) != 1 || failed != nullptr) _exit(1);
  syscall(SYS_close_range, 0u, ~0u, 0u);
  for (;;) {
    siginfo_t info;
    do {
      info.si_pid = 0;
    } while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0);
    sigwaitinfo(&children, nullptr);
  }
}

}  // namespace

Result<PodInit> PodInit::Start(int user_namespace, bool ends_with_maker) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("make a pipe");
  UniqueFd reader(ends[0]), writer(ends[1]);
  auto run = [&] {
    reader.Reset();
    signal(SIGPIPE, SIG_IGN);
    RunPodInit(writer.get(), ends_with_maker);
  };
  PodInit init;
  if (user_namespace < 0) {
    auto cloned = TRY(oci::Clone(kNewNamespaces, -1));
    if (cloned.pid == 0) run();
    init.pid_ = cloned.pid;
    init.pidfd_ = std::move(cloned.pidfd);
  } else {
    init.pidfd_ = TRY(oci::CloneInUserNamespace(user_namespace, kNewNamespaces, run));
    auto pid = oci::PidOf(init.pidfd_.get());
    if (!pid) return std::move(pid.error());
    init.pid_ = *pid;
  }
  writer.Reset();
  pollfd wait{reader.get(), POLLIN, 0};
  Deadline deadline = Deadline::After(kReadyMillis);
  int ready;
  while ((ready = poll(&wait, 1, deadline.RemainingMillis())) < 0 && errno == EINTR) {
  }
  char code = 0;
  if (ready != 1 || read(reader.get(), &code, 1) != 1 || code != 'r') {
    return MakeError(Code::kInternal, "the init of the pod's PID namespace did not come up");
  }
  return init;
}

void PodInit::Kill() {
  if (!pidfd_) return;
  oci::KillAndReap(pidfd_.get());
  pidfd_.Reset();
}

}  // namespace caisson::task

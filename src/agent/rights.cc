// SPDX-License-Identifier: Apache-2.0
#include "agent/rights.h"

#include <grp.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys/bounding_set.h"
#include "sys/call_filter.h"
#include "sys/oom_score.h"

namespace caisson::agent {
namespace {

constexpr unsigned kMemoryAndEnd[] = {
    SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise, SYS_futex, SYS_clock_gettime, SYS_gettimeofday, SYS_getrandom, SYS_rt_sigreturn,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_getpid, SYS_gettid, SYS_tgkill, SYS_exit, SYS_exit_group, SYS_restart_syscall,
    SYS_sigaltstack};  // the address sanitizer asks for it

constexpr unsigned kMessengerCalls[] = {
    // The loop, and what it reads: the channel, pipes, terminals, notices.
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_eventfd2, SYS_ppoll, SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_close,
    SYS_fcntl, SYS_dup, SYS_dup3, SYS_pipe2,
    // Files to read: /proc, /sys, bundles, cgroups.
    SYS_openat, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_statfs, SYS_fstatfs, SYS_lseek, SYS_getdents64, SYS_readlinkat, SYS_faccessat, SYS_faccessat2,
    SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch, SYS_unlinkat, SYS_umask, SYS_fchmodat,
    // Sockets: the pod's ports, the kernel's uevents, launchers, gates.
    SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen, SYS_sendmsg, SYS_recvmsg, SYS_sendto, SYS_recvfrom, SYS_shutdown, SYS_getsockopt,
    SYS_setsockopt, SYS_getsockname,
    SYS_uname, SYS_sysinfo, SYS_sched_getaffinity, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_clock_nanosleep,
#ifdef SYS_epoll_wait
    SYS_epoll_wait,
#endif
#ifdef SYS_poll
    SYS_poll,
#endif
#ifdef SYS_open
    SYS_open, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_unlink, SYS_chmod,
#endif
};

constexpr unsigned kCarrierCalls[] = {SYS_read, SYS_write, SYS_close};

}  // namespace

void SpareFromOom() { (void)sys::SetOomScore(0, -1000); }

Result<> DropRights() {
  TRY(sys::EmptyBoundingSet());
  if (setgroups(0, nullptr) != 0 || setresgid(kNobodysId, kNobodysId, kNobodysId) != 0 || setresuid(kNobodysId, kNobodysId, kNobodysId) != 0) {
    return ErrnoError("become user {}", kNobodysId);
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (syscall(SYS_capset, &header, none) != 0) return ErrnoError("drop capabilities");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return ErrnoError("set no_new_privs");
  return {};
}

Result<> AllowMessengerCalls() {
  sys::CallFilter filter;
  filter.Allow(kMemoryAndEnd);
  filter.Allow(kMessengerCalls);
  filter.AllowWith(SYS_ioctl, 1, TIOCSWINSZ);
  return filter.Install();
}

Result<> AllowCarrierCalls() {
  sys::CallFilter filter;
  filter.Allow(kMemoryAndEnd);
  filter.Allow(kCarrierCalls);
  return filter.Install();
}

}  // namespace caisson::agent

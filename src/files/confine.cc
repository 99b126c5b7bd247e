// SPDX-License-Identifier: Apache-2.0
#include "files/confine.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

#include "sys/bounding_set.h"
#include "sys/call_filter.h"
#include "sys/empty_root.h"

namespace caisson::files {
namespace {

constexpr unsigned kRights[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_SETUID, CAP_SETGID};

constexpr unsigned kCalls[] = {
    // The streams to guest and starter; messages with descriptors.
    SYS_read, SYS_write, SYS_recvmsg, SYS_sendmsg, SYS_sendto, SYS_ppoll,
    // Files and folders, each by a descriptor and one name.
    SYS_openat, SYS_openat2, SYS_close, SYS_fcntl, SYS_pread64, SYS_pwrite64, SYS_lseek, SYS_ftruncate, SYS_fallocate, SYS_fsync, SYS_fdatasync,
    SYS_getdents64, SYS_statx, SYS_newfstatat, SYS_fstat, SYS_fstatfs, SYS_readlinkat, SYS_mkdirat, SYS_symlinkat, SYS_linkat, SYS_unlinkat,
    SYS_renameat2, SYS_fchmod, SYS_fchmodat, SYS_fchownat, SYS_utimensat, SYS_fgetxattr, SYS_fsetxattr, SYS_flistxattr, SYS_fremovexattr,
    // Whose the files are that are made.
    SYS_setfsuid, SYS_setfsgid, SYS_capget, SYS_capset, SYS_umask,
    // Memory and the end.
    SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_madvise, SYS_futex, SYS_clock_gettime, SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_getpid, SYS_gettid,
    SYS_tgkill, SYS_exit, SYS_exit_group, SYS_restart_syscall,
    // UBSan's runtime asks by a pipe whether memory can be read; of no use to anybody else, and no harm.
    SYS_pipe2,
#ifdef SYS_pipe
    SYS_pipe,
#endif
#ifdef SYS_poll
    SYS_poll,
#endif
};

sys::CallFilter Filter() {
  sys::CallFilter filter;
  filter.Allow(kCalls);
  filter.AllowWith(SYS_prctl, 0, PR_SET_PDEATHSIG);  // EndWithStarter
  // mknodat: no devices.
  filter.Add({sys::SkipUnless(SYS_mknodat, 6), sys::LoadArgument(2), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, S_IFMT), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, S_IFCHR, 2, 0),
              BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, S_IFBLK, 1, 0), sys::ReturnAction(SECCOMP_RET_ALLOW), sys::ReturnAction(sys::kRefuseCall)});
  return filter;
}

// A procfs of our PID namespace, of which nothing but our own descriptors can be reached by the one that is returned.
Result<UniqueFd> OpenOwnDescriptors() {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return ErrnoError("make mounts private");
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) return ErrnoError("mount proc");
  UniqueFd own(open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!own) return ErrnoError("open /proc/self/fd");
  return own;
}

Result<> SetLimits() {
  rlimit files{}, none{0, 0};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return ErrnoError("ask for the limit of descriptors");
  files.rlim_cur = files.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &files) != 0 || setrlimit(RLIMIT_CORE, &none) != 0) return ErrnoError("set limits");
  return {};
}

Result<> DropRights() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct had[2] = {}, kept[2] = {};
  if (syscall(SYS_capget, &header, had) != 0) return ErrnoError("ask for capabilities");
  for (unsigned right : kRights) kept[CAP_TO_INDEX(right)].permitted |= CAP_TO_MASK(right) & had[CAP_TO_INDEX(right)].permitted;
  for (auto& half : kept) half.effective = half.permitted;
  TRY(sys::EmptyBoundingSet());
  if (syscall(SYS_capset, &header, kept) != 0) return ErrnoError("drop capabilities");
  return {};
}

}  // namespace

void EndWithStarter() { prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); }

Result<UniqueFd> Confine() {
  UniqueFd own = TRY(OpenOwnDescriptors());
  if (const char* failed = sys::EnterEmptyRoot()) return ErrnoError("{}", failed);
  TRY(SetLimits());
  TRY(DropRights());
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return ErrnoError("set no_new_privs");
  EndWithStarter();
  TRY(Filter().Install());
  return own;
}

}  // namespace caisson::files

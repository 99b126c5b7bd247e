// SPDX-License-Identifier: Apache-2.0
#include "files/confine.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <vector>

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

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#endif

constexpr uint32_t kNumberAt = offsetof(seccomp_data, nr), kArchitectureAt = offsetof(seccomp_data, arch);

// The lower half of an argument: both architectures are little-endian.
constexpr uint32_t ArgumentAt(int index) { return static_cast<uint32_t>(offsetof(seccomp_data, args) + static_cast<size_t>(index) * sizeof(uint64_t)); }

sock_filter Load(uint32_t at) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at); }
sock_filter Return(uint32_t action) { return BPF_STMT(BPF_RET | BPF_K, action); }
sock_filter SkipUnless(uint32_t value, uint8_t count) { return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, count); }

std::vector<sock_filter> Filter() {
  constexpr uint32_t kRefuse = SECCOMP_RET_ERRNO | EPERM;
  std::vector<sock_filter> program = {Load(kArchitectureAt), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0), Return(SECCOMP_RET_KILL_PROCESS), Load(kNumberAt)};
  for (unsigned call : kCalls) {
    program.push_back(SkipUnless(call, 1));
    program.push_back(Return(SECCOMP_RET_ALLOW));
  }
  // prctl: only EndWithStarter.
  program.push_back(SkipUnless(SYS_prctl, 4));
  program.push_back(Load(ArgumentAt(0)));
  program.push_back(SkipUnless(PR_SET_PDEATHSIG, 1));
  program.push_back(Return(SECCOMP_RET_ALLOW));
  program.push_back(Return(kRefuse));
  // mknodat: no devices.
  program.push_back(SkipUnless(SYS_mknodat, 5));
  program.push_back(Load(ArgumentAt(2)));
  program.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, S_IFMT));
  program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, S_IFCHR, 2, 0));
  program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, S_IFBLK, 1, 0));
  program.push_back(Return(SECCOMP_RET_ALLOW));
  program.push_back(Return(kRefuse));
  return program;
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
  for (unsigned long right = 0; prctl(PR_CAPBSET_DROP, right, 0, 0, 0) == 0; ++right) {
  }
  if (errno != EINVAL) return ErrnoError("empty the bounding set");
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) return ErrnoError("clear ambient capabilities");
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
  std::vector<sock_filter> program = Filter();
  sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) != 0) return ErrnoError("set the system call filter");
  return own;
}

}  // namespace caisson::files

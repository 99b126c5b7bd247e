// SPDX-License-Identifier: Apache-2.0
#include "vmm/launch.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <grp.h>

#include "base/clock.h"

// <sys/mount.h> and <linux/mount.h> cannot be included together in Debian 12's glibc.
extern "C" int mount(const char* source, const char* target, const char* type, unsigned long flags, const void* data) noexcept;

namespace caisson::vmm {
namespace {

constexpr int kFirstFd = 3;
constexpr rlim_t kFdLimit = 1024;
constexpr int64_t kReapMillis = 10'000;
constexpr unsigned long kReadOnly = 1, kNoSuid = 2, kNoDev = 4, kNoExec = 8, kBind = 4096, kRecursive = 16384, kPrivate = 1 << 18;  // MS_*

// Where other people's things are, on any distribution. What the VMM runs from (/usr, /lib, /opt, /nix, …) is not among them.
constexpr const char* kHidden[] = {"/boot", "/home", "/media", "/mnt", "/root", "/run", "/srv", "/sys", "/tmp", "/var"};

// What went wrong, from the child to us.
struct Failure {
  int step;
  int error;
};
constexpr const char* kSteps[] = {"wait for its parent",
                                  "begin a session",
                                  "enter its cgroup",
                                  "make a network namespace",
                                  "open /dev/net/tun",
                                  "make a tap",
                                  "make its mounts private",
                                  "mount its /proc",
                                  "make a device of its own",
                                  "hide folders",
                                  "make its mounts read-only",
                                  "arrange its descriptors",
                                  "set its resource limits",
                                  "do without huge pages",
                                  "drop its capabilities",
                                  "set its groups",
                                  "set its group",
                                  "set its user",
                                  "set no_new_privs",
                                  "tie its life to ours",
                                  "change its folder",
                                  "execute it"};
enum Step : int {
  kParent,
  kSession,
  kCgroup,
  kNetns,
  kTun,
  kTap,
  kPrivateMounts,
  kProc,
  kDevice,
  kHide,
  kReadOnlyMounts,
  kDescriptors,
  kLimits,
  kHugePages,
  kCapabilities,
  kGroups,
  kGroup,
  kUser,
  kNoNewPrivs,
  kDeathSignal,
  kFolder,
  kExec
};
static_assert(std::size(kSteps) == kExec + 1);

// The child until it executes the program: a copy of a process of one thread, so it may do what that could.
class Child {
 public:
  Child(const LaunchSpec& spec, int report) : spec_(spec), report_(report) {}

  [[noreturn]] void Run() {
    if (setsid() < 0) Fail(kSession);
    EnterCgroups();
    UniqueFd tap;
    if (spec_.lone_tap >= 0) tap = MakeLoneTap();
    if (geteuid() == 0) Isolate();
    Arrange(tap.get());
    Limit();
    Demote();
    if (chdir("/") != 0) Fail(kFolder);
    umask(077);
    std::vector<char*> arguments;
    for (const std::string& argument : spec_.arguments) arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    char* environment[] = {nullptr};
    execve(spec_.program.c_str(), arguments.data(), environment);
    Fail(kExec);
  }

 private:
  [[noreturn]] void Fail(Step step) {
    Failure failure{step, errno};
    (void)!write(report_, &failure, sizeof failure);
    _exit(127);
  }

  void EnterCgroups() {
    for (const std::string& path : spec_.cgroup_procs) {
      UniqueFd procs(open(path.c_str(), O_WRONLY | O_CLOEXEC));
      // "0": the writer (cgroups(7)), whatever its number is in here.
      if (!procs || write(procs.get(), "0", 1) != 1) Fail(kCgroup);
    }
  }

  UniqueFd MakeLoneTap() {
    if (unshare(CLONE_NEWNET) != 0) Fail(kNetns);
    UniqueFd tap(open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    if (!tap) Fail(kTun);
    ifreq request{};
    memcpy(request.ifr_name, "tap0", sizeof "tap0");
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (ioctl(tap.get(), TUNSETIFF, &request) != 0) Fail(kTap);
    return tap;
  }

  void Isolate() {
    if (mount("", "/", nullptr, kRecursive | kPrivate, nullptr) != 0) Fail(kPrivateMounts);
    if (mount("proc", "/proc", "proc", kNoSuid | kNoDev | kNoExec, nullptr) != 0) Fail(kProc);
    if (!spec_.own_device.empty()) MakeDevice();
    for (const char* folder : kHidden) {
      size_t length = strlen(folder);
      if (spec_.program.compare(0, length, folder) == 0 && spec_.program[length] == '/') continue;
      struct stat info;
      if (lstat(folder, &info) != 0 || !S_ISDIR(info.st_mode)) continue;
      if (mount("none", folder, "tmpfs", kNoSuid | kNoDev | kNoExec, "mode=0555,nr_inodes=1,size=4k") != 0) Fail(kHide);
    }
    mount_attr attributes{};
    attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID;
    if (syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &attributes, sizeof attributes) != 0) Fail(kReadOnlyMounts);
  }

  // In a tmpfs over a folder that is hidden below and never has the program; the place that it is bound to keeps it.
  void MakeDevice() {
    constexpr char kFolder[] = "/sys", kNode[] = "/sys/device";
    struct stat info;
    if (stat(spec_.own_device.c_str(), &info) != 0 || mount("none", kFolder, "tmpfs", kNoSuid | kNoExec, "mode=0700,nr_inodes=2,size=4k") != 0 ||
        mknod(kNode, S_IFCHR | 0600, info.st_rdev) != 0 || chown(kNode, spec_.uid, spec_.gid) != 0 ||
        mount(kNode, spec_.own_device.c_str(), nullptr, kBind, nullptr) != 0) {
      Fail(kDevice);
    }
  }

  // First out of the way, then into place: a target may be another's source.
  void Arrange(int tap) {
    std::vector<int> sources = spec_.fds;
    if (spec_.lone_tap >= 0) sources[static_cast<size_t>(spec_.lone_tap)] = tap;
    sources.push_back(report_);
    sources.push_back(spec_.messages_fd);
    const int above = kFirstFd + static_cast<int>(sources.size());
    for (int& fd : sources) {
      fd = fcntl(fd, F_DUPFD_CLOEXEC, above);
      if (fd < 0) Fail(kDescriptors);
    }
    int messages = sources.back();
    sources.pop_back();
    for (size_t i = 0; i < sources.size(); ++i) {
      bool last = i + 1 == sources.size();
      if (dup3(sources[i], kFirstFd + static_cast<int>(i), last ? O_CLOEXEC : 0) < 0) Fail(kDescriptors);
    }
    report_ = kFirstFd + static_cast<int>(sources.size()) - 1;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, 0) < 0 || dup2(messages, 1) < 0 || dup2(messages, 2) < 0) Fail(kDescriptors);
    if (syscall(SYS_close_range, report_ + 1, ~0U, 0) != 0) Fail(kDescriptors);
  }

  void Limit() {
    rlimit none{0, 0};
    rlimit files{};
    if (setrlimit(RLIMIT_CORE, &none) != 0 || getrlimit(RLIMIT_NOFILE, &files) != 0) Fail(kLimits);
    files.rlim_cur = files.rlim_max = std::min(files.rlim_max, kFdLimit);
    if (setrlimit(RLIMIT_NOFILE, &files) != 0) Fail(kLimits);
    if (!spec_.huge_pages && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0) Fail(kHugePages);
  }

  void Demote() {
    // capabilities(7): what root executes gets what the bounding set still has; EINVAL: the kernel knows no more.
    for (unsigned long capability = 0; geteuid() == 0; ++capability) {
      if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0) continue;
      if (errno == EINVAL && capability > 0) break;
      Fail(kCapabilities);
    }
    if (geteuid() == 0 && setgroups(spec_.groups.size(), spec_.groups.data()) != 0) Fail(kGroups);
    if (spec_.gid != 0 && setresgid(spec_.gid, spec_.gid, spec_.gid) != 0) Fail(kGroup);
    if (spec_.uid != 0 && setresuid(spec_.uid, spec_.uid, spec_.uid) != 0) Fail(kUser);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) Fail(kNoNewPrivs);
    // Only now: a change of user forgets it (prctl(2)).
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) Fail(kDeathSignal);
    // Our parent may have died before that; then nobody holds the other end any more.
    pollfd parent{report_, 0, 0};
    if (poll(&parent, 1, 0) != 0) _exit(127);
  }

  const LaunchSpec& spec_;
  int report_;
};

Result<Launched> Clone(unsigned long flags, bool* child) {
  int pidfd = -1;
  clone_args args{};
  args.flags = flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  long pid = syscall(SYS_clone3, &args, sizeof args);
  if (pid < 0) return ErrnoError("clone a process for the VMM");
  *child = pid == 0;
  Launched launched;
  if (pid > 0) launched.pid = static_cast<int>(pid), launched.pidfd = UniqueFd(pidfd);
  return launched;
}

}  // namespace

Result<Launched> Launch(const LaunchSpec& spec, Deadline deadline) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("make a pipe");
  UniqueFd reader(ends[0]), writer(ends[1]);
  bool child = false;
  // Signals stay blocked in the child until it is itself: a handler of ours must not run in there.
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  auto launched = Clone(geteuid() == 0 ? CLONE_NEWPID | CLONE_NEWNS : 0, &child);
  if (launched && child) {
    reader.Reset();
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    Child(spec, writer.get()).Run();
  }
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (!launched) return launched;
  writer.Reset();
  // The write end is closed by execve: no report is a good one.
  pollfd wait{reader.get(), POLLIN, 0};
  int ready;
  while ((ready = poll(&wait, 1, deadline.RemainingMillis())) < 0 && errno == EINTR) {
  }
  Failure failure{};
  ssize_t got = ready > 0 ? read(reader.get(), &failure, sizeof failure) : -1;
  if (got == 0) return launched;
  syscall(SYS_pidfd_send_signal, launched->pidfd.get(), SIGKILL, nullptr, 0);
  (void)ReapLaunched(*launched, kReapMillis);
  if (ready == 0) return MakeError(Code::kDeadlineExceeded, "start '{}': it has not begun in time", spec.program);
  if (got != sizeof failure || failure.step < 0 || failure.step > kExec) return MakeError(Code::kInternal, "start '{}': no report", spec.program);
  return SysError(failure.error, fmt::format("start '{}': {}", spec.program, kSteps[failure.step]));
}

Result<std::string> ReapLaunched(const Launched& process, int64_t millis) {
  Deadline deadline = Deadline::After(millis);
  pollfd wait{process.pidfd.get(), POLLIN, 0};
  int ready;
  while ((ready = poll(&wait, 1, deadline.RemainingMillis())) < 0 && errno == EINTR) {
  }
  if (ready <= 0) return MakeError(Code::kDeadlineExceeded, "the VMM's process does not end");
  siginfo_t info{};
  if (waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(process.pidfd.get()), &info, WEXITED) != 0) {
    if (errno == ECHILD) return std::string("ended");  // reaped by whoever waits for any child
    return ErrnoError("reap the VMM");
  }
  if (info.si_code == CLD_EXITED) return fmt::format("exited with status {}", info.si_status);
  return fmt::format("was killed by signal {} ({})", info.si_status, strsignal(info.si_status));
}

}  // namespace caisson::vmm

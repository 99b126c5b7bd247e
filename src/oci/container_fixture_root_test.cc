// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "oci/clone.h"
#include "oci/container_fixture.h"
#include "sys/cgroup.h"

namespace caisson::oci {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int64_t kPatience = 20'000;  // milliseconds until a test gives up on a process

std::string Slurp(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void MakeRoot(const std::string& root) {
  for (const char* folder : {"bin", "dev", "proc", "sys", "etc", "tmp", "home"})
    fs::create_directories(root + "/" + folder);
  fs::copy_file("/bin/busybox", root + "/bin/busybox");
  for (const char* applet :
       {"sh",     "cat",  "echo", "ls",       "id",       "grep",  "sleep", "true",  "false", "mount",
        "umount", "stat", "tty",  "hostname", "readlink", "touch", "mkdir", "mknod", "env",   "pwd",
        "wc",     "head", "sort", "test",     "kill",     "ps",    "dd",    "chmod"}) {
    fs::create_symlink("busybox", root + "/bin/" + applet);
  }
  std::ofstream(root + "/etc/passwd") << "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home:/bin/sh\n";
  std::ofstream(root + "/etc/group") << "root:x:0:\napp:x:1000:\naudio:x:29:app\n";
}

}  // namespace

std::string WhyNoContainers() {
  if (geteuid() != 0) return "containers need root";
  if (access("/bin/busybox", X_OK) != 0) return "needs /bin/busybox (Debian package busybox-static)";
  return "";
}

json DefaultSpec(const std::vector<std::string>& args) {
  json caps = {"CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",           "CAP_FOWNER",
               "CAP_MKNOD",   "CAP_NET_RAW",      "CAP_SETGID",           "CAP_SETUID",
               "CAP_SETFCAP", "CAP_SETPCAP",      "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT",
               "CAP_KILL",    "CAP_AUDIT_WRITE"};
  return {
      {"ociVersion", "1.2.0"},
      {"process",
       {{"user", {{"uid", 0}, {"gid", 0}}},
        {"args", args},
        {"env", {"PATH=/bin", "A=b"}},
        {"cwd", "/"},
        {"noNewPrivileges", true},
        {"capabilities", {{"bounding", caps}, {"effective", caps}, {"permitted", caps}}}}},
      {"root", {{"path", "rootfs"}}},
      {"hostname", "box"},
      {"mounts",
       {{{"destination", "/proc"}, {"type", "proc"}, {"source", "proc"}, {"options", {"nosuid", "noexec", "nodev"}}},
        {{"destination", "/dev"},
         {"type", "tmpfs"},
         {"source", "tmpfs"},
         {"options", {"nosuid", "strictatime", "mode=755", "size=65536k"}}},
        {{"destination", "/dev/pts"},
         {"type", "devpts"},
         {"source", "devpts"},
         {"options", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}}},
        {{"destination", "/dev/mqueue"},
         {"type", "mqueue"},
         {"source", "mqueue"},
         {"options", {"nosuid", "noexec", "nodev"}}},
        {{"destination", "/sys"},
         {"type", "sysfs"},
         {"source", "sysfs"},
         {"options", {"nosuid", "noexec", "nodev", "ro"}}}}},
      {"linux",
       {{"namespaces",
         {{{"type", "mount"}},
          {{"type", "pid"}},
          {{"type", "ipc"}},
          {{"type", "uts"}},
          {{"type", "network"}},
          {{"type", "cgroup"}}}},
        {"resources", {{"pids", {{"limit", 64}}}}},
        {"maskedPaths",
         {"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/scsi",
          "/sys/firmware"}},
        {"readonlyPaths", {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}}}}};
}

// Mounts of others, pods of another test among them, are neither seen nor counted.
void EnterOwnMountNamespace() {
  static const bool entered = unshare(CLONE_NEWNS) == 0 && mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  ASSERT_TRUE(entered);
}

json ShellSpec(const std::string& script) { return DefaultSpec({"/bin/sh", "-c", script}); }

void ContainerTest::SetUp() {
  std::string reason = WhyNoContainers();
  if (!reason.empty()) GTEST_SKIP() << reason;
  EnterOwnMountNamespace();
  mounts_before_ = Mounts();
  descriptors_before_ = Descriptors();
  std::string pattern = ::testing::TempDir() + "/caisson-oci.XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  bundle_ = pattern;
  rootfs_ = bundle_ + "/rootfs";
  MakeRoot(rootfs_);
  cgroup_ = "caisson-oci-test-" + std::to_string(getpid());
}

void ContainerTest::TearDown() {
  if (bundle_.empty()) return;
  output_.Reset();
  siginfo_t info{};
  EXPECT_TRUE(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 && errno == ECHILD)
      << "a child is left: " << info.si_pid;
  // Fewer are no fault of ours: whoever removes a mount point on the host takes our copy of its mount away.
  std::istringstream mounts(Mounts());
  for (std::string line; std::getline(mounts, line);) {
    EXPECT_NE(mounts_before_.find(line + "\n"), std::string::npos) << "mount left: " << line;
  }
  EXPECT_EQ(Descriptors(), descriptors_before_);
  for (const auto& left : Cgroups(cgroup_)) {
    // The test's own parent group stays until now; those of containers must be gone.
    for (const auto& entry : fs::directory_iterator(left))
      EXPECT_FALSE(entry.is_directory()) << "left: " << entry.path();
    EXPECT_EQ(rmdir(left.c_str()), 0) << left << ": " << strerror(errno);
  }
  fs::remove_all(bundle_);
}

std::string ContainerTest::Mounts() { return Slurp("/proc/self/mountinfo"); }

size_t ContainerTest::Descriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

std::vector<std::string> ContainerTest::Cgroups(const std::string& path) {
  std::vector<std::string> found;
  auto mounts = sys::ReadCgroupMounts();
  if (!mounts) return found;
  for (const auto& mount : *mounts) {
    std::string folder = mount.mount_point + "/" + path;
    if (fs::exists(folder)) found.push_back(folder);
  }
  return found;
}

Stdio ContainerTest::MakeStdio() {
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  output_ = UniqueFd(ends[0]);
  Stdio stdio;
  stdio.out = UniqueFd(ends[1]);
  stdio.err = UniqueFd(fcntl(ends[1], F_DUPFD_CLOEXEC, 3));
  return stdio;
}

std::string ContainerTest::ReadAllOf(int fd) {
  std::string text;
  Deadline deadline = Deadline::After(kPatience);
  char buffer[4096];
  for (;;) {
    pollfd wait{fd, POLLIN, 0};
    if (poll(&wait, 1, deadline.RemainingMillis()) <= 0) {
      ADD_FAILURE() << "output does not end; so far: " << text;
      return text;
    }
    ssize_t got = read(fd, buffer, sizeof buffer);
    if (got <= 0) return text;  // EIO: the last user of a terminal has gone
    text.append(buffer, static_cast<size_t>(got));
  }
}

std::string ContainerTest::Output() {
  std::string text = ReadAllOf(output_.get());
  output_.Reset();
  return text;
}

CreateOptions ContainerTest::Options(const json& spec) {
  CreateOptions options;
  options.id = "c" + std::to_string(++made_);
  options.bundle = bundle_;
  auto parsed = ParseSpec(spec.dump());
  EXPECT_TRUE(parsed) << parsed.error().message;
  if (parsed) options.spec = std::move(*parsed);
  if (options.spec.cgroups_path.empty()) options.spec.cgroups_path = "/" + cgroup_ + "/" + options.id;
  options.deadline_millis = kPatience;
  if (!options.spec.process.terminal) options.stdio = MakeStdio();
  return options;
}

int ContainerTest::Wait(const Process& process) {
  auto code = Reap(process.pidfd.get(), kPatience);
  EXPECT_TRUE(code) << code.error().message;
  return code ? *code : -1;
}

Ended ContainerTest::Run(CreateOptions options) {
  Ended ended;
  auto container = Container::Create(std::move(options));
  if (!container) {
    ADD_FAILURE() << "create: " << container.error().message;
    return ended;
  }
  auto started = (*container)->Start();
  if (!started) {
    ADD_FAILURE() << "start: " << started.error().message;
  } else {
    ended.out = (*container)->init().console ? ReadAllOf((*container)->init().console.get()) : Output();
    ended.code = Wait((*container)->init());
  }
  auto deleted = (*container)->Delete(kPatience);
  EXPECT_TRUE(deleted) << deleted.error().message;
  if (ended.code < 0) KillAndReap((*container)->init().pidfd.get());
  return ended;
}

Error ContainerTest::RunFails(CreateOptions options) {
  auto container = Container::Create(std::move(options));
  if (!container) return std::move(container.error());
  auto started = (*container)->Start();
  EXPECT_FALSE(started) << "it started";
  if (started) (*container)->Kill(SIGKILL, true).has_value();
  Wait((*container)->init());
  EXPECT_TRUE((*container)->Delete(kPatience));
  return started ? Error() : std::move(started.error());
}

Ended ContainerTest::Exec(Container* container, const json& process) {
  Ended ended;
  ExecOptions options;
  auto parsed = ParseProcess(process.dump());
  EXPECT_TRUE(parsed) << parsed.error().message;
  if (!parsed) return ended;
  options.process = std::move(*parsed);
  if (!options.process.terminal) options.stdio = MakeStdio();
  options.deadline_millis = kPatience;
  auto started = container->Exec(std::move(options));
  if (!started) {
    ended.out = started.error().message;
    output_.Reset();
    return ended;
  }
  ended.out = started->console ? ReadAllOf(started->console.get()) : Output();
  ended.code = Wait(*started);
  return ended;
}

}  // namespace caisson::oci

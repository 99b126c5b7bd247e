// SPDX-License-Identifier: Apache-2.0
//
// Every step of the launcher, made to fail: a seccomp filter in a process of the test's own lets one system call fail
// with EIO, then a container is made and started there. It must say so, and leave no process, cgroup, mount,
// descriptor.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>

#include "oci/container_fixture.h"
#include "oci/user_namespace.h"

namespace caisson::oci {
namespace {

using nlohmann::json;

struct Call {
  const char* name;
  int number;
};

void FailCall(int number) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EIO),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{std::size(filter), filter};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) _exit(100);
}

class LaunchFault : public ContainerTest {
 protected:
  // In a process where `number` fails: the exit code says what was wrong with the undoing.
  [[noreturn]] void Attempt(CreateOptions options, int number, int report) {
    options.stdio = Stdio();
    FailCall(number);
    std::string message;
    auto container = Container::Create(std::move(options));
    if (!container) {
      message = container.error().message;
    } else {
      auto started = (*container)->Start();
      if (!started) message = started.error().message;
      bool deleted = (*container)->Delete(10'000).has_value();
      siginfo_t info{};
      waitid(P_PIDFD, static_cast<id_t>((*container)->init().pidfd.get()), &info, WEXITED);
      if (!deleted) _exit(3);
    }
    (void)!write(report, message.data(), message.size());
    siginfo_t info{};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0) _exit(2);
    _exit(message.empty() ? 1 : 0);
  }

  void Check(const json& spec, const Call& call, const std::vector<RootfsMount>& rootfs = {}) {
    int report[2];
    ASSERT_EQ(pipe2(report, O_CLOEXEC), 0);
    UniqueFd in(report[0]), out(report[1]);
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      prctl(PR_SET_CHILD_SUBREAPER, 1);
      CreateOptions options = Options(spec);
      options.rootfs = rootfs;
      Attempt(std::move(options), call.number, out.get());
    }
    out.Reset();
    std::string message = ReadAllOf(in.get());
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0) << call.name << ": exit " << WEXITSTATUS(status)
                         << " (1: it did not fail, 2: a child is left, 3: Delete failed)";
    EXPECT_THAT(message, ::testing::HasSubstr("Input/output error")) << call.name;
  }
};

TEST_F(LaunchFault, EveryCallOfAnOrdinaryContainer) {
  json spec = DefaultSpec({"/bin/true"});
  spec["root"]["readonly"] = true;
  spec["process"]["user"] = {{"uid", 1000}, {"gid", 1000}, {"additionalGids", {5}}};
  spec["process"]["rlimits"] = {{{"type", "RLIMIT_CORE"}, {"soft", 0}, {"hard", 0}}};
  spec["linux"]["seccomp"] = {{"defaultAction", "SCMP_ACT_ALLOW"},
                              {"syscalls", {{{"names", {"acct"}}, {"action", "SCMP_ACT_ERRNO"}}}}};
  // mkdir and write also fail in the cgroup's making, before any process.
  std::vector<Call> calls = {{"socketpair", SYS_socketpair}, {"clone3", SYS_clone3}, {"sethostname", SYS_sethostname},
                             {"unshare", SYS_unshare}, {"mount", SYS_mount}, {"openat2", SYS_openat2}, {"mkdirat", SYS_mkdirat},
                             {"mknodat", SYS_mknodat}, {"symlinkat", SYS_symlinkat}, {"open_tree", SYS_open_tree},
                             {"mount_setattr", SYS_mount_setattr}, {"move_mount", SYS_move_mount}, {"fchdir", SYS_fchdir},
                             {"pivot_root", SYS_pivot_root}, {"umount2", SYS_umount2}, {"chdir", SYS_chdir},
                             {"close_range", SYS_close_range}, {"prlimit64", SYS_prlimit64}, {"setgroups", SYS_setgroups},
                             {"setresgid", SYS_setresgid}, {"setresuid", SYS_setresuid}, {"capget", SYS_capget}, {"capset", SYS_capset},
                             {"setsid", SYS_setsid}, {"sendmsg", SYS_sendmsg}, {"recvmsg", SYS_recvmsg}, {"seccomp", SYS_seccomp},
                             {"execve", SYS_execve}};
#ifdef SYS_dup2  // arm64 has not the calls that newer ones have replaced
  calls.insert(calls.end(), {{"mkdir", SYS_mkdir}, {"dup2", SYS_dup2}});
#endif
  for (const Call& call : calls) Check(spec, call);
}

TEST_F(LaunchFault, EveryCallOfAUserNamespace) {
  json spec = DefaultSpec({"/bin/true"});
  spec["linux"]["namespaces"].push_back({{"type", "user"}});
  spec["linux"]["uidMappings"] =
      spec["linux"]["gidMappings"] = {{{"containerID", 0}, {"hostID", 200000}, {"size", 65536}}};
  ASSERT_EQ(chown(rootfs_.c_str(), 200000, 200000), 0);
  for (const Call& call : std::initializer_list<Call>{{"unshare", SYS_unshare},
                                                      {"open_tree", SYS_open_tree},
                                                      {"setresuid", SYS_setresuid},
                                                      {"setgroups", SYS_setgroups},
                                                      {"clone3", SYS_clone3},
                                                      {"sendmsg", SYS_sendmsg},
                                                      {"move_mount", SYS_move_mount},
                                                      {"pivot_root", SYS_pivot_root},
                                                      {"execve", SYS_execve}}) {
    Check(spec, call);
  }
}

// A pod's: joined, with id-mapped layers and an id-mapped volume.
TEST_F(LaunchFault, EveryCallOfAPodsUserNamespace) {
  if (auto probed = ProbeUserNamespaces(bundle_); !probed) GTEST_SKIP() << probed.error().message;
  std::vector<IdMapping> map = {{0, 200000, 65536}};
  auto made = MakeUserNamespace({map, map}, CLONE_NEWNET | CLONE_NEWIPC, nullptr);
  ASSERT_TRUE(made) << made.error().message;
  for (const char* name : {"upper", "work", "merged", "volume"}) std::filesystem::create_directory(bundle_ + "/" + name);
  ASSERT_EQ(chown((bundle_ + "/upper").c_str(), 200000, 200000), 0);
  json spec = DefaultSpec({"/bin/true"});
  spec["root"]["path"] = bundle_ + "/merged";
  spec["linux"]["namespaces"] = {{{"type", "mount"}},
                                 {{"type", "pid"}},
                                 {{"type", "user"}, {"path", fmt::format("/proc/self/fd/{}", made->user.get())}},
                                 {{"type", "ipc"}, {"path", fmt::format("/proc/self/fd/{}", made->ipc.get())}},
                                 {{"type", "network"}, {"path", fmt::format("/proc/self/fd/{}", made->network.get())}}};
  json maps = {{{"containerID", 0}, {"hostID", 200000}, {"size", 65536}}};
  json other = {{{"containerID", 0}, {"hostID", 300000}, {"size", 1}}};  // needs a namespace of its own
  spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = maps;
  spec["mounts"].push_back({{"destination", "/volume"},
                            {"type", "bind"},
                            {"source", bundle_ + "/volume"},
                            {"options", {"rbind"}},
                            {"uidMappings", other},
                            {"gidMappings", other}});
  std::vector<RootfsMount> rootfs = {{"overlay",
                                      "overlay",
                                      {"lowerdir=" + rootfs_, "upperdir=" + bundle_ + "/upper",
                                       "workdir=" + bundle_ + "/work", "uidmap=0:200000:65536", "gidmap=0:200000:65536"}}};
  for (const Call& call : std::initializer_list<Call>{{"socketpair", SYS_socketpair},
                                                      {"clone3", SYS_clone3},
                                                      {"sendmsg", SYS_sendmsg},
                                                      {"unshare", SYS_unshare},
                                                      {"mount", SYS_mount},
                                                      {"open_tree", SYS_open_tree},
                                                      {"mount_setattr", SYS_mount_setattr},
                                                      {"move_mount", SYS_move_mount},
                                                      {"setns", SYS_setns},
                                                      {"setgroups", SYS_setgroups},
                                                      {"setresuid", SYS_setresuid},
                                                      {"pivot_root", SYS_pivot_root},
                                                      {"execve", SYS_execve}}) {
    Check(spec, call, rootfs);
  }
}

// Namespaces that nobody lives in: whatever fails, their maker is gone.
TEST_F(LaunchFault, EveryCallOfMakingAUserNamespace) {
  for (const Call& call : std::initializer_list<Call>{{"socketpair", SYS_socketpair},
                                                      {"clone3", SYS_clone3},
                                                      {"write", SYS_write},
                                                      {"sendmsg", SYS_sendmsg},
                                                      {"recvmsg", SYS_recvmsg},
                                                      {"setgroups", SYS_setgroups},
                                                      {"setresgid", SYS_setresgid},
                                                      {"setresuid", SYS_setresuid},
                                                      {"unshare", SYS_unshare}}) {
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      FailCall(call.number);
      std::vector<IdMapping> map = {{0, 200000, 65536}};
      auto made = MakeUserNamespace({map, map}, CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, nullptr);
      siginfo_t info{};
      if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0) _exit(2);
      _exit(made ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0) << call.name << ": exit " << WEXITSTATUS(status) << " (1: it did not fail, 2: a child is left)";
  }
}

// A process in one of them, as a pod's init is.
TEST_F(LaunchFault, EveryCallOfACloneInAUserNamespace) {
  for (const Call& call : std::initializer_list<Call>{{"socketpair", SYS_socketpair},
                                                      {"clone3", SYS_clone3},
                                                      {"setns", SYS_setns},
                                                      {"setgroups", SYS_setgroups},
                                                      {"setresuid", SYS_setresuid}}) {
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      std::vector<IdMapping> map = {{0, 200000, 65536}};
      auto made = MakeUserNamespace({map, map}, 0, nullptr);
      if (!made) _exit(3);
      FailCall(call.number);
      auto cloned = CloneInUserNamespace(made->user.get(), CLONE_NEWPID, [] { pause(); });
      siginfo_t info{};
      if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0) _exit(2);
      _exit(cloned ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0) << call.name << ": exit " << WEXITSTATUS(status) << " (1: it did not fail, 2: a child is left)";
  }
}

TEST_F(LaunchFault, EveryCallOfAJoin) {
  json spec = DefaultSpec({"/bin/true"});
  spec["linux"]["namespaces"][4]["path"] = "/proc/self/ns/net";
  spec["linux"]["namespaces"][1]["path"] = "/proc/self/ns/pid";
  Check(spec, {"setns", SYS_setns});
}

// The launcher is killed while init waits for its start: nothing of the container lives on.
TEST_F(LaunchFault, LauncherKilled) {
  int report[2];
  ASSERT_EQ(pipe2(report, O_CLOEXEC), 0);
  UniqueFd in(report[0]), out(report[1]);
  pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    auto options = Options(DefaultSpec({"/bin/sleep", "1000"}));
    options.stdio = Stdio();
    options.stdio.out = UniqueFd(fcntl(out.get(), F_DUPFD_CLOEXEC, 3));
    out.Reset();
    auto container = Container::Create(std::move(options));
    if (!container || !(*container)->Start()) _exit(1);
    kill(getpid(), SIGKILL);
  }
  out.Reset();
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(ReadAllOf(in.get()), "") << "the container's stdout has no writer any more: it has ended";
  CgroupOptions group;
  group.path = "/" + cgroup_ + "/c1";
  auto left = Cgroup::Open(group);
  ASSERT_TRUE(left) << left.error().message;
  EXPECT_TRUE((*left)->Delete(Deadline::After(10'000)));
}

}  // namespace
}  // namespace caisson::oci

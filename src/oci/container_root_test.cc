// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "oci/container.h"
#include "oci/container_fixture.h"

namespace caisson::oci {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

using ContainerRun = ContainerTest;
using ContainerExec = ContainerTest;

TEST_F(ContainerRun, OutputAndExitCode) {
  Ended ended = Run(ShellSpec("echo out; echo err >&2; exit 7"));
  EXPECT_EQ(ended.out, "out\nerr\n");
  EXPECT_EQ(ended.code, 7);
}

TEST_F(ContainerRun, DiesOfSignal) {
  auto container = Create(DefaultSpec({"/bin/sleep", "1000"}));
  ASSERT_TRUE(container && (*container)->Start());
  EXPECT_TRUE((*container)->Kill(SIGKILL, false));
  EXPECT_EQ(Wait((*container)->init()), 128 + SIGKILL);
  EXPECT_TRUE((*container)->Kill(SIGKILL, false)) << "ended already";
  EXPECT_TRUE((*container)->Delete(10'000));
}

TEST_F(ContainerRun, HasNamespacesOfItsOwn) {
  Ended ended =
      Run(ShellSpec("echo $$; hostname; for n in mnt pid ipc uts net cgroup; do readlink /proc/self/ns/$n; done; ls "
                    "/proc | grep -c '^[0-9]'"));
  EXPECT_THAT(ended.out, StartsWith("1\nbox\n"));
  for (const char* name : {"mnt", "pid", "ipc", "uts", "net", "cgroup"}) {
    EXPECT_THAT(ended.out, Not(HasSubstr(fs::read_symlink(std::string("/proc/self/ns/") + name).string())));
  }
}

TEST_F(ContainerRun, NothingRunsBeforeStart) {
  auto container = Create(ShellSpec("echo ran"));
  ASSERT_TRUE(container) << container.error().message;
  EXPECT_NE(fs::read_symlink("/proc/" + std::to_string((*container)->init().pid) + "/exe"), "/bin/busybox");
  ASSERT_TRUE((*container)->Start());
  EXPECT_EQ(Output(), "ran\n");
  EXPECT_EQ(Wait((*container)->init()), 0);
  auto again = (*container)->Start();
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Code::kFailedPrecondition);
  EXPECT_TRUE((*container)->Delete(10'000));
  EXPECT_TRUE((*container)->Delete(10'000)) << "a second time";
}

TEST_F(ContainerRun, DeletedBeforeStart) {
  auto container = Create(ShellSpec("echo ran"));
  ASSERT_TRUE(container) << container.error().message;
  EXPECT_TRUE((*container)->Delete(10'000));
  EXPECT_NE(Wait((*container)->init()), 0);
  EXPECT_EQ(Output(), "");
}

TEST_F(ContainerRun, DeleteKillsWhatIsLeft) {
  auto container = Create(ShellSpec("trap '' TERM; (trap '' TERM; sleep 1000)& echo up; sleep 1000"));
  ASSERT_TRUE(container && (*container)->Start());
  EXPECT_TRUE((*container)->Delete(10'000));
  EXPECT_EQ(Wait((*container)->init()), 128 + SIGKILL);
}

TEST_F(ContainerRun, ReadOnlyRoot) {
  json spec = ShellSpec("touch /x 2>&1; touch /dev/ok && echo dev; touch /tmp/y 2>&1");
  spec["root"]["readonly"] = true;
  EXPECT_EQ(Run(spec).out, "touch: /x: Read-only file system\ndev\ntouch: /tmp/y: Read-only file system\n");
  EXPECT_FALSE(fs::exists(rootfs_ + "/x"));
}

TEST_F(ContainerRun, DevHasDefaultNodesAndLinks) {
  Ended ended =
      Run(ShellSpec("cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty; for l in fd stdin stdout stderr "
                    "ptmx; do readlink $l; done; echo x > /dev/null && "
                    "head -c 3 /dev/zero | wc -c"));
  EXPECT_EQ(ended.out,
            "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n"
            "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n3\n");
}

TEST_F(ContainerRun, MaskedAndReadOnlyPaths) {
  json spec = ShellSpec(
      "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; echo 1 2>&1 > /proc/sys/kernel/shmmni; touch /proc/sys/kernel "
      "2>&1; cat /secret; ls /hidden");
  fs::create_directory(rootfs_ + "/hidden");
  std::ofstream(rootfs_ + "/hidden/file") << "text";
  std::ofstream(rootfs_ + "/secret") << "text";
  spec["linux"]["maskedPaths"].push_back("/hidden");
  spec["linux"]["maskedPaths"].push_back("/secret");
  spec["linux"]["maskedPaths"].push_back("/not/there");
  spec["linux"]["readonlyPaths"].push_back("/not/there/either");
  Ended ended = Run(spec);
  EXPECT_THAT(ended.out, StartsWith("0\n0\n"));
  EXPECT_THAT(ended.out, AllOf(HasSubstr("shmmni: Read-only"), HasSubstr("touch: /proc/sys/kernel: Read-only"),
                               Not(HasSubstr("text")), Not(HasSubstr("file\n"))));
}

TEST_F(ContainerRun, UserGroupsUmaskCapabilities) {
  json spec = ShellSpec(
      "id -u; id -g; id -G; umask; grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; echo $HOME; pwd");
  spec["process"]["user"] = {{"uid", 1000}, {"gid", 1001}, {"additionalGids", {29, 40}}, {"umask", 077}};
  spec["process"]["cwd"] = "/home";
  Ended ended = Run(spec);
  EXPECT_THAT(ended.out, StartsWith("1000\n1001\n1001 29 40\n0077\n"));
  EXPECT_THAT(ended.out, HasSubstr("CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:"
                                   "\t0000000000000000\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n"));
  EXPECT_THAT(ended.out, HasSubstr("NoNewPrivs:\t1\n"));
  EXPECT_THAT(ended.out, HasSubstr("\n/home\n/home\n"));
}

TEST_F(ContainerRun, AmbientCapabilitiesOfOrdinaryUser) {
  json spec = ShellSpec("grep -E '^Cap' /proc/self/status");
  spec["process"]["user"] = {{"uid", 1000}, {"gid", 1000}};
  json one = {"CAP_NET_BIND_SERVICE"};
  spec["process"]["capabilities"] = {
      {"bounding", one}, {"effective", one}, {"permitted", one}, {"inheritable", one}, {"ambient", one}};
  EXPECT_THAT(Run(spec).out, HasSubstr("CapPrm:\t0000000000000400\nCapEff:\t0000000000000400\nCapBnd:"
                                       "\t0000000000000400\nCapAmb:\t0000000000000400"));
}

TEST_F(ContainerRun, RootKeepsWhatItIsGiven) {
  EXPECT_THAT(Run(ShellSpec("grep -E '^Cap' /proc/self/status")).out,
              HasSubstr("CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:"
                        "\t00000000a80425fb"));
}

TEST_F(ContainerRun, NoCapabilitiesUnlessGiven) {
  json spec = ShellSpec("grep -E '^Cap' /proc/self/status");
  spec["process"].erase("capabilities");
  EXPECT_THAT(Run(spec).out,
              HasSubstr("CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000"));
}

TEST_F(ContainerRun, Seccomp) {
  json spec = ShellSpec("grep Seccomp: /proc/self/status; mkdir /tmp/no; echo $?; chmod 600 /etc/passwd && echo chmod");
  spec["linux"]["seccomp"] = {
      {"defaultAction", "SCMP_ACT_ALLOW"},
      {"syscalls", {{{"names", {"mkdir", "mkdirat"}}, {"action", "SCMP_ACT_ERRNO"}, {"errnoRet", 1}}}}};
  for (bool privileges : {true, false}) {
    spec["process"]["noNewPrivileges"] = !privileges;
    Ended ended = Run(spec);
    EXPECT_THAT(ended.out,
                AllOf(HasSubstr("Seccomp:\t2\n"), HasSubstr("Operation not permitted\n1\n"), HasSubstr("chmod\n")))
        << privileges;
  }
}

TEST_F(ContainerRun, Rlimits) {
  json spec = ShellSpec("ulimit -n; ulimit -Hn");
  spec["process"]["rlimits"] = {{{"type", "RLIMIT_NOFILE"}, {"soft", 100}, {"hard", 200}}};
  EXPECT_EQ(Run(spec).out, "100\n200\n");
}

TEST_F(ContainerRun, OomScore) {
  json spec = ShellSpec("cat /proc/self/oom_score_adj");
  spec["process"]["oomScoreAdj"] = 500;
  EXPECT_EQ(Run(spec).out, "500\n");
  spec["process"]["oomScoreAdj"] = -999;  // what the host may refuse is clamped, not an error
  EXPECT_EQ(Run(spec).code, 0);
}

TEST_F(ContainerRun, Sysctl) {
  json spec = ShellSpec("cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_unprivileged_port_start");
  spec["linux"]["sysctl"] = {{"kernel.shmmni", "1234"}, {"net.ipv4.ip_unprivileged_port_start", "77"}};
  EXPECT_EQ(Run(spec).out, "1234\n77\n");
}

TEST_F(ContainerRun, BindMounts) {
  std::string source = bundle_ + "/volume";
  fs::create_directory(source);
  std::ofstream(source + "/file") << "text\n";
  json spec = ShellSpec("cat /v/file /deep/er/file; touch /v/new; touch /ro/new 2>&1; mount | grep -E ' /(ro|v) '");
  spec["mounts"].push_back({{"destination", "/v"},
                            {"type", "bind"},
                            {"source", source},
                            {"options", {"rbind", "rprivate", "nosuid", "nodev"}}});
  spec["mounts"].push_back(
      {{"destination", "/ro"}, {"type", "bind"}, {"source", source}, {"options", {"rbind", "ro"}}});
  spec["mounts"].push_back(
      {{"destination", "/deep/er/file"}, {"type", "bind"}, {"source", source + "/file"}, {"options", {"bind"}}});
  Ended ended = Run(spec);
  EXPECT_THAT(ended.out, StartsWith("text\ntext\ntouch: /ro/new: Read-only file system\n"));
  EXPECT_THAT(ended.out, AllOf(HasSubstr("nosuid,nodev")));
  EXPECT_TRUE(fs::exists(source + "/new"));
}

TEST_F(ContainerRun, OverlayRoot) {
  for (const char* name : {"upper", "work", "merged"}) fs::create_directory(bundle_ + "/" + name);
  json spec = ShellSpec("echo text > /written; mount | grep -c ' / type overlay'");
  spec["root"]["path"] = bundle_ + "/merged";
  CreateOptions options = Options(spec);
  options.rootfs = {{"overlay",
                     "overlay",
                     {"lowerdir=" + rootfs_, "upperdir=" + bundle_ + "/upper", "workdir=" + bundle_ + "/work"}}};
  EXPECT_EQ(Run(std::move(options)).out, "1\n");
  EXPECT_TRUE(fs::exists(bundle_ + "/upper/written"));
  EXPECT_TRUE(fs::is_empty(bundle_ + "/merged")) << "the mount was seen on the host";
}

TEST_F(ContainerRun, Terminal) {
  json spec =
      ShellSpec("tty; test -t 0 && echo yes; stty size; ls -l /dev/console | head -c 1; echo; ps -o pid,tty | head -2");
  fs::create_symlink("busybox", rootfs_ + "/bin/stty");
  spec["process"]["terminal"] = true;
  spec["process"]["consoleSize"] = {{"width", 101}, {"height", 33}};
  Ended ended = Run(spec);
  EXPECT_THAT(ended.out, StartsWith("/dev/pts/0\r\nyes\r\n33 101\r\nc\r\n"));
  EXPECT_EQ(ended.code, 0);
}

TEST_F(ContainerRun, DescriptorsDoNotLeak) {
  UniqueFd host(open("/", O_RDONLY | O_DIRECTORY));  // no O_CLOEXEC: a library's slip (CVE-2024-21626)
  Ended ended = Run(ShellSpec("ls /proc/self/fd"));
  EXPECT_THAT(ended.out, StartsWith("0\n1\n2\n3\n"));  // 3 is ls reading the folder
  EXPECT_THAT(ended.out, Not(HasSubstr("4")));
}

TEST_F(ContainerExec, RunsInTheContainer) {
  auto container = Create(DefaultSpec({"/bin/sleep", "1000"}));
  ASSERT_TRUE(container) << container.error().message;
  ASSERT_TRUE((*container)->Start());
  json process = ShellSpec(
      "hostname; grep -E '^(CapInh|CapEff|NoNewPrivs)' /proc/self/status; for n in mnt pid ipc uts net cgroup; do test "
      "$(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo not $n; done; cat /proc/1/cgroup > /tmp/1; cat "
      "/proc/self/cgroup > /tmp/2; test \"$(cat /tmp/1)\" = \"$(cat /tmp/2)\" && echo same; exit 3")["process"];
  Ended ended = Exec(container->get(), process);
  EXPECT_EQ(ended.code, 3);
  EXPECT_EQ(ended.out, "box\nCapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nsame\n");
  process["args"] = {"not-there"};
  EXPECT_THAT(Exec(container->get(), process).out, HasSubstr("'not-there': executable file not found in PATH"));
  process["args"] = {"/etc/passwd"};
  EXPECT_THAT(Exec(container->get(), process).out, HasSubstr("Permission denied"));
  process["args"] = {"/bin/tty"};
  process["terminal"] = true;
  EXPECT_EQ(Exec(container->get(), process).out, "/dev/pts/0\r\n");
  EXPECT_TRUE((*container)->Delete(10'000));
  EXPECT_EQ(Wait((*container)->init()), 128 + SIGKILL);
}

TEST_F(ContainerExec, CwdTricks) {
  auto container = Create(DefaultSpec({"/bin/sleep", "1000"}));
  ASSERT_TRUE(container && (*container)->Start());
  UniqueFd host(open("/", O_RDONLY | O_DIRECTORY));
  json process = ShellSpec("ls")["process"];
  for (int fd = 3; fd < 24; ++fd) {
    process["cwd"] = "/proc/self/fd/" + std::to_string(fd);
    Ended ended = Exec(container->get(), process);
    EXPECT_EQ(ended.code, -1) << process["cwd"] << ": " << ended.out;
    EXPECT_THAT(ended.out, HasSubstr("working directory"));
  }
  EXPECT_TRUE((*container)->Delete(10'000));
  Wait((*container)->init());
}

TEST_F(ContainerExec, AfterTheEnd) {
  auto container = Create(DefaultSpec({"/bin/true"}));
  ASSERT_TRUE(container && (*container)->Start());
  EXPECT_EQ(Wait((*container)->init()), 0);
  EXPECT_EQ(Exec(container->get(), ShellSpec("true")["process"]).code, -1);
  EXPECT_TRUE((*container)->Kill(SIGTERM, false));
  EXPECT_TRUE((*container)->Delete(10'000));
}

TEST_F(ContainerRun, FailuresNameStepAndObjectAndLeaveNothing) {
  json spec = DefaultSpec({"/bin/nothing"});
  EXPECT_THAT(RunFails(spec).message, HasSubstr("/bin/nothing"));
  spec = DefaultSpec({"nothing"});
  EXPECT_THAT(RunFails(spec).message, HasSubstr("'nothing': executable file not found in PATH"));
  spec = DefaultSpec({"/bin/true"});
  spec["mounts"].push_back(
      {{"destination", "/m"}, {"type", "bind"}, {"source", "/no/such/source"}, {"options", {"bind"}}});
  EXPECT_THAT(RunFails(spec).message, AllOf(HasSubstr("'/no/such/source' on '/m'"), HasSubstr("No such file")));
  spec = DefaultSpec({"/bin/true"});
  spec["mounts"].push_back({{"destination", "/m"}, {"type", "nofs"}, {"source", "x"}});
  EXPECT_THAT(RunFails(spec).message, HasSubstr("'/m'"));
  spec = DefaultSpec({"/bin/true"});
  spec["linux"]["namespaces"][4]["path"] = "/no/such/netns";
  EXPECT_THAT(RunFails(spec).message, HasSubstr("/no/such/netns"));
  spec = DefaultSpec({"/bin/true"});
  spec["root"]["path"] = "/no/such/root";
  EXPECT_THAT(RunFails(spec).message, HasSubstr("/no/such/root"));
  spec = DefaultSpec({"/bin/true"});
  spec["linux"]["sysctl"] = {{"net.no_such", "1"}};
  EXPECT_THAT(RunFails(spec).message, HasSubstr("net.no_such"));
}

}  // namespace
}  // namespace caisson::oci

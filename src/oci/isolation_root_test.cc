// SPDX-License-Identifier: Apache-2.0
//
// What a hostile image, a racing neighbour or an odd configuration tries, and how mounts, users and hooks behave.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/scope_exit.h"
#include "oci/clone.h"
#include "oci/user_namespace.h"
#include "oci/container_fixture.h"
#include "sys/sysctl.h"

namespace caisson::oci {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

using HostileImage = ContainerTest;
using ContainerMounts = ContainerTest;
using ContainerUsers = ContainerTest;
using ContainerHooks = ContainerTest;
using UserNamespace = ContainerTest;

json Bind(const std::string& source, const std::string& destination, std::vector<std::string> options) {
  options.push_back("rbind");
  return {{"destination", destination}, {"type", "bind"}, {"source", source}, {"options", options}};
}

// CVE-2024-5154 and kin: folders of the image that are links to the host's.
TEST_F(HostileImage, LinksOfTheImageStayInside) {
  std::string outside = bundle_ + "/outside";
  fs::create_directory(outside);
  for (const char* name : {"dev", "etc"}) {
    fs::remove_all(rootfs_ + "/" + name);
    fs::create_symlink(outside, rootfs_ + "/" + name);
  }
  std::ofstream(bundle_ + "/hosts") << "hosts\n";
  json spec = ShellSpec("cat /etc/hosts; test -c /dev/null && echo dev");
  spec["mounts"].push_back(Bind(bundle_ + "/hosts", "/etc/hosts", {"ro"}));
  CreateOptions options = Options(spec);
  Ended ended = Run(std::move(options));
  EXPECT_EQ(ended.out, "hosts\ndev\n");
  EXPECT_TRUE(fs::is_empty(outside));
}

TEST_F(HostileImage, LinkInPlaceOfProcIsRefused) {
  for (const char* name : {"proc", "sys"}) {
    fs::remove_all(rootfs_ + "/" + name);
    fs::create_symlink("/tmp", rootfs_ + "/" + name);
    EXPECT_THAT(RunFails(ShellSpec("true")).message,
                AllOf(HasSubstr("on '/" + std::string(name) + "'"), HasSubstr("symbolic links")))
        << name;
    fs::remove(rootfs_ + "/" + name);
    fs::create_directory(rootfs_ + "/" + name);
  }
}

TEST_F(HostileImage, NothingIsMountedIntoProc) {
  fs::create_directory(bundle_ + "/fake");
  std::ofstream(bundle_ + "/file") << "x";
  for (const char* target :
       {"/proc/self/attr/exec", "/proc/sys/kernel/hostname", "/proc/../proc/version", "/sneaky/version"}) {
    json spec = ShellSpec("true");
    fs::remove(rootfs_ + "/sneaky");
    fs::create_symlink("proc", rootfs_ + "/sneaky");
    spec["mounts"].push_back(Bind(bundle_ + "/file", target, {}));
    EXPECT_THAT(RunFails(spec).message, HasSubstr("inside /proc")) << target;
  }
  json spec = ShellSpec("true");
  spec["mounts"].insert(spec["mounts"].begin(), Bind(bundle_ + "/fake", "/proc", {}));
  EXPECT_THAT(RunFails(spec).message, HasSubstr("only a procfs may be on /proc"));
  spec = ShellSpec("cat /proc/uptime");
  spec["mounts"].push_back(Bind(bundle_ + "/file", "/proc/uptime", {}));
  EXPECT_EQ(Run(spec).out, "x");
}

// CVE-2024-21626: a working directory through a descriptor that leaked from the runtime.
TEST_F(HostileImage, WorkingDirectoryThroughDescriptor) {
  UniqueFd host(open("/", O_RDONLY | O_DIRECTORY));
  for (int fd = 3; fd < 20; ++fd) {
    json spec = ShellSpec("ls");
    spec["process"]["cwd"] = "/proc/self/fd/" + std::to_string(fd);
    EXPECT_THAT(RunFails(spec).message, HasSubstr("working directory"));
  }
  fs::create_symlink("/proc/self/fd/3", rootfs_ + "/cwd");
  json spec = ShellSpec("ls");
  spec["process"]["cwd"] = "/cwd";
  EXPECT_THAT(RunFails(spec).message, HasSubstr("working directory"));
  spec = DefaultSpec({"/proc/self/fd/3/bin/true"});
  EXPECT_THAT(RunFails(spec).message, HasSubstr("/proc/self/fd/3"));
}

// CVE-2025-31133: what masks is the host's /dev/null, whatever the image or a mount puts on its own.
TEST_F(HostileImage, MaskIsTheRealNull) {
  std::ofstream(rootfs_ + "/secret") << "text";
  std::ofstream(rootfs_ + "/null") << "planted";
  json spec = ShellSpec("stat -c '%t:%T' /secret");
  spec["mounts"].push_back(Bind(rootfs_ + "/null", "/dev/null", {}));
  spec["linux"]["maskedPaths"] = {"/secret"};
  EXPECT_THAT(RunFails(spec).message, HasSubstr("something else is there"));
  spec["mounts"].erase(spec["mounts"].size() - 1);
  EXPECT_EQ(Run(spec).out, "1:3\n");
}

// CVE-2025-52565: the console is never put where a link leads.
TEST_F(HostileImage, ConsoleIsNoLink) {
  json spec = ShellSpec("tty");
  spec["process"]["terminal"] = true;
  std::string dev = bundle_ + "/dev";
  fs::create_directories(dev + "/pts");
  fs::create_symlink("/proc/self/attr/exec", dev + "/console");
  spec["mounts"][1] = Bind(dev, "/dev", {});
  EXPECT_THAT(RunFails(spec).message, AllOf(HasSubstr("/dev/console"), HasSubstr("symbolic links")));
  // No devpts at all.
  spec["mounts"].erase(2);
  EXPECT_THAT(RunFails(spec).message, HasSubstr("/dev/pts"));
}

TEST_F(HostileImage, DeviceIsTheOneMeant) {
  json spec = ShellSpec("stat -c '%F %t:%T %a %u:%g' /dev/own /deep/blk");
  spec["linux"]["devices"] = {
      {{"path", "/dev/own"}, {"type", "c"}, {"major", 1}, {"minor", 3}, {"fileMode", 0640}, {"uid", 7}, {"gid", 8}},
      {{"path", "/deep/blk"}, {"type", "b"}, {"major", 250}, {"minor", 250}, {"fileMode", 0600}}};
  EXPECT_EQ(Run(spec).out, "character special file 1:3 640 7:8\nblock special file fa:fa 600 0:0\n");
  std::ofstream(rootfs_ + "/plain") << "x";
  fs::create_symlink("/dev/null", rootfs_ + "/link");
  for (const char* path : {"/plain", "/link"}) {
    spec["linux"]["devices"] = {{{"path", path}, {"type", "c"}, {"major", 1}, {"minor", 3}}};
    EXPECT_THAT(RunFails(spec).message, HasSubstr("something else is there")) << path;
  }
}

// The runtime's own program is out of reach of an image whose program is a link to it; see sys/sealed_program.h for the
// companion's side.
TEST_F(HostileImage, DescriptorsOfInitAreClosed) {
  auto container = Create(ShellSpec("true"));
  ASSERT_TRUE(container) << container.error().message;
  std::vector<std::string> open;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string((*container)->init().pid) + "/fd")) {
    open.push_back(fs::read_symlink(entry.path()).string());
  }
  EXPECT_EQ(open.size(), 4u) << "stdio and the control socket";
  struct stat info {};
  ASSERT_EQ(stat(("/proc/" + std::to_string((*container)->init().pid) + "/fd").c_str(), &info), 0);
  std::ifstream status("/proc/" + std::to_string((*container)->init().pid) + "/status");
  ASSERT_TRUE((*container)->Delete(10'000));
  Wait((*container)->init());
}

TEST_F(ContainerMounts, RecursiveReadOnlyIsRecursive) {
  std::string volume = bundle_ + "/volume";
  fs::create_directories(volume + "/inner");
  ASSERT_EQ(mount("tmpfs", (volume + "/inner").c_str(), "tmpfs", 0, nullptr), 0);
  ScopeExit undo([&] { umount((volume + "/inner").c_str()); });
  json spec = ShellSpec("touch /ro/x 2>&1; touch /ro/inner/x && echo written; touch /rro/inner/x 2>&1");
  spec["mounts"].push_back(Bind(volume, "/ro", {"ro"}));
  spec["mounts"].push_back(Bind(volume, "/rro", {"rro"}));
  EXPECT_EQ(Run(spec).out,
            "touch: /ro/x: Read-only file system\nwritten\ntouch: /rro/inner/x: Read-only file system\n");
}

// `shared`: a mount that the volume is on.
class ContainerPropagation : public ContainerTest, public testing::WithParamInterface<const char*> {};

TEST_P(ContainerPropagation, FollowsTheOptions) {
  std::string volume = bundle_ + "/volume", shared = bundle_ + GetParam();
  fs::create_directories(volume + "/later");
  fs::create_directories(volume + "/inside");
  ASSERT_EQ(mount(shared.c_str(), shared.c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_EQ(mount(nullptr, shared.c_str(), nullptr, MS_SHARED, nullptr), 0);
  ScopeExit undo([&] { umount2(shared.c_str(), MNT_DETACH); });
  for (const char* mode : {"rprivate", "rslave", "rshared"}) {
    json spec =
        ShellSpec("while ! test -e /go/go; do :; done; ls /v/later; mount -t tmpfs x /v/inside; echo done; cat");
    fs::create_directory(bundle_ + "/go");
    spec["mounts"].push_back(Bind(volume, "/v", {mode}));
    spec["mounts"].push_back(Bind(bundle_ + "/go", "/go", {}));
    spec["process"]["capabilities"]["bounding"] = spec["process"]["capabilities"]["effective"] =
        spec["process"]["capabilities"]["permitted"] = {"CAP_SYS_ADMIN"};
    if (std::string(mode) == "rshared") spec["linux"]["rootfsPropagation"] = "rshared";
    auto container = Create(spec);
    ASSERT_TRUE(container) << container.error().message;
    EXPECT_THAT(Mounts(), Not(HasSubstr(rootfs_))) << mode;
    ASSERT_TRUE((*container)->Start());
    ASSERT_EQ(mount("tmpfs", (volume + "/later").c_str(), "tmpfs", 0, nullptr), 0);
    std::ofstream(volume + "/later/seen") << "x";
    std::ofstream(bundle_ + "/go/go") << "x";
    EXPECT_THAT(Output(), std::string(mode) == "rprivate" ? testing::Eq("done\n") : testing::Eq("seen\ndone\n"))
        << mode;
    struct statfs info {};
    EXPECT_EQ(Wait((*container)->init()), 0);
    ASSERT_EQ(statfs((volume + "/inside").c_str(), &info), 0);
    EXPECT_EQ(info.f_type == 0x01021994 /* TMPFS_MAGIC */, std::string(mode) == "rshared") << mode;
    umount((volume + "/inside").c_str());
    umount((volume + "/later").c_str());
    EXPECT_TRUE((*container)->Delete(10'000));
    fs::remove_all(bundle_ + "/go");
  }
}

// The volume's own, and the one that the container's root is made in as well.
INSTANTIATE_TEST_SUITE_P(Shared, ContainerPropagation, testing::Values("/volume", ""),
                         [](const auto& info) { return *info.param ? "Volume" : "Parent"; });

TEST_F(ContainerMounts, PodShmIsShared) {
  UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC)));
  ASSERT_EQ(syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, "size", "1m", 0), 0);
  ASSERT_EQ(syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), 0);
  UniqueFd shm(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
  ASSERT_TRUE(shm);
  context.Reset();
  UniqueFd probe(static_cast<int>(
      syscall(SYS_open_tree, shm.get(), "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
  std::string at = bundle_ + "/shm";
  if (!probe) {  // Linux before 6.15
    fs::create_directory(at);
    ASSERT_EQ(syscall(SYS_move_mount, shm.get(), "", AT_FDCWD, at.c_str(), MOVE_MOUNT_F_EMPTY_PATH), 0);
  }
  for (const char* script : {"echo one > /dev/shm/file", "cat /dev/shm/file"}) {
    json spec = ShellSpec(script);
    spec["mounts"].push_back({{"destination", "/dev/shm"},
                              {"type", "caisson-shm"},
                              {"source", "shm"},
                              {"options", {"nosuid", "noexec", "nodev"}}});
    CreateOptions options = Options(spec);
    options.shm_fd = shm.get();
    Ended ended = Run(std::move(options));
    EXPECT_EQ(ended.out, std::string(script).starts_with("cat") ? "one\n" : "");
  }
  if (!probe) umount2(at.c_str(), MNT_DETACH);
}

// "lowerdir+" came with Linux 6.5. (Asking overlayfs tells nothing: before, it took any word until the mount was made.)
bool CanAddLowerDirs() {
  struct utsname kernel {};
  int major = 0, minor = 0;
  return uname(&kernel) == 0 && sscanf(kernel.release, "%d.%d", &major, &minor) == 2 && major * 1000 + minor >= 6005;
}

TEST_F(ContainerMounts, LongOverlayOptions) {
  std::string lower;
  for (int i = 0; i < 120; ++i) {
    std::string folder = fmt::format("{}/layers/a-folder-with-a-rather-long-name-{:03}/fs", bundle_, i);
    fs::create_directories(folder);
    std::ofstream(folder + fmt::format("/file{:03}", i)) << i;
    lower += folder + ":";
  }
  for (const char* name : {"upper", "work", "merged"}) fs::create_directory(bundle_ + "/" + name);
  json spec = ShellSpec("ls / | grep -c ^file");
  spec["root"]["path"] = bundle_ + "/merged";
  CreateOptions options = Options(spec);
  options.rootfs = {
      {"overlay",
       "overlay",
       {"lowerdir=" + lower + rootfs_, "upperdir=" + bundle_ + "/upper", "workdir=" + bundle_ + "/work"}}};
  if (!CanAddLowerDirs()) {
    auto container = Container::Create(std::move(options));
    ASSERT_FALSE(container);
    EXPECT_THAT(container.error().message, HasSubstr("need Linux 6.5"));
    return;
  }
  EXPECT_EQ(Run(std::move(options)).out, "120\n");
}

TEST_F(ContainerMounts, CgroupIsTheContainersOwn) {
  json spec =
      ShellSpec("cat /proc/self/cgroup | grep -v ':/$'; ls /sys/fs/cgroup | head -3; mkdir /sys/fs/cgroup/x 2>&1");
  spec["mounts"].push_back({{"destination", "/sys/fs/cgroup"},
                            {"type", "cgroup"},
                            {"source", "cgroup"},
                            {"options", {"nosuid", "noexec", "nodev", "relatime", "ro"}}});
  Ended ended = Run(spec);
  EXPECT_EQ(ended.code, 1) << ended.out;
  EXPECT_THAT(ended.out, AllOf(HasSubstr("Read-only file system"), Not(HasSubstr("caisson-oci-test"))));
}

TEST_F(ContainerUsers, NameOfTheImage) {
  json spec = ShellSpec("id -u; id -g; id -G; echo $HOME");
  spec["process"]["user"] = {{"username", "app"}, {"additionalGids", {50}}};
  auto container = Create(spec);
  ASSERT_TRUE(container) << container.error().message;
  EXPECT_EQ((*container)->spec().process.uid, 1000u) << "known to the parent";
  ASSERT_TRUE((*container)->Start());
  EXPECT_EQ(Output(), "1000\n1000\n1000 29 50\n/home\n");
  Wait((*container)->init());
  EXPECT_TRUE((*container)->Delete(10'000));
  spec["process"]["user"] = {{"username", "app"}, {"gid", 77}, {"strictGroups", true}, {"additionalGids", {50}}};
  EXPECT_EQ(Run(spec).out, "1000\n77\n77 50\n/home\n");
  spec["process"]["user"] = {{"username", "nobody-here"}};
  EXPECT_THAT(RunFails(spec).message, HasSubstr("'nobody-here'"));
}

// CVE-2023-25173: groups of exec by name.
TEST_F(ContainerUsers, ExecByName) {
  auto container = Create(DefaultSpec({"/bin/sleep", "1000"}));
  ASSERT_TRUE(container && (*container)->Start());
  json process = ShellSpec("id -u; id -G")["process"];
  process["user"] = {{"username", "app"}};
  EXPECT_EQ(Exec(container->get(), process).out, "1000\n1000 29\n");
  // CVE-2022-27650.
  process["args"] = {"/bin/grep", "CapInh", "/proc/self/status"};
  EXPECT_EQ(Exec(container->get(), process).out, "CapInh:\t0000000000000000\n");
  EXPECT_TRUE((*container)->Delete(10'000));
  Wait((*container)->init());
}

TEST_F(ContainerHooks, RunInOrderWithState) {
  json spec = ShellSpec("echo program >> /log; cat /log");
  auto hook = [](const std::string& name, const std::string& file) {
    return json{{{"path", "/bin/sh"},
                 {"args", {"sh", "-c", "echo " + name + " >> " + file + "; cat >> " + file + ".state"}},
                 {"env", {"PATH=/bin"}}}};
  };
  spec["hooks"] = {{"createRuntime", hook("createRuntime", bundle_ + "/log")},
                   {"createContainer", hook("createContainer", bundle_ + "/log")},
                   {"startContainer", hook("startContainer", "/log")},
                   {"poststart", hook("poststart", bundle_ + "/log")},
                   {"poststop", hook("poststop", bundle_ + "/log")}};
  EXPECT_EQ(Run(spec).out, "startContainer\nprogram\n");
  std::ifstream log(bundle_ + "/log");
  std::string word, all;
  while (log >> word) all += word + " ";
  EXPECT_EQ(all, "createRuntime createContainer poststart poststop ");
  std::ifstream state(bundle_ + "/log.state");
  std::string text((std::istreambuf_iterator<char>(state)), {});
  EXPECT_THAT(
      text, AllOf(HasSubstr("\"id\":\"c1\""), HasSubstr("\"status\":\"created\""), HasSubstr("\"status\":\"stopped\""),
                  Not(HasSubstr("\"pid\":1,")), Not(HasSubstr("\"pid\":0"))));
}

TEST_F(ContainerHooks, FailureAndTimeoutUndoTheContainer) {
  json spec = ShellSpec("true");
  spec["hooks"] = {{"createRuntime", {{{"path", "/bin/false"}}}}};
  EXPECT_THAT(RunFails(spec).message, HasSubstr("hook '/bin/false' ended with 1"));
  spec["hooks"] = {{"createContainer", {{{"path", "/bin/false"}}}}};
  EXPECT_THAT(RunFails(spec).message, HasSubstr("hook '/bin/false' ended with 1"));
  spec["hooks"] = {{"createRuntime", {{{"path", "/bin/sleep"}, {"args", {"sleep", "1000"}}, {"timeout", 1}}}}};
  EXPECT_THAT(RunFails(spec).message, HasSubstr("did not end within 1 s"));
}

json MappedSpec(const std::string& script) {
  json spec = ShellSpec(script);
  spec["linux"]["namespaces"].push_back({{"type", "user"}});
  spec["linux"]["uidMappings"] = {{{"containerID", 0}, {"hostID", 200000}, {"size", 65536}}};
  spec["linux"]["gidMappings"] = {{{"containerID", 0}, {"hostID", 200000}, {"size", 65536}}};
  return spec;
}

TEST_F(UserNamespace, OwnNamespaceOwnsTheOthers) {
  std::ofstream(bundle_ + "/file") << "bound\n";
  fs::permissions(bundle_, fs::perms::owner_all);  // 0700: out of reach for who is not root of the host
  ASSERT_EQ(chown(rootfs_.c_str(), 200000, 200000), 0);
  json spec = MappedSpec(
      "id -u; cat /proc/self/uid_map; cat /file; hostname; echo x > /dev/null && echo null; touch /new; stat -c %u "
      "/new; "
      "grep CapEff /proc/self/status; cat /proc/self/oom_score_adj");
  spec["process"]["oomScoreAdj"] = 300;
  spec["mounts"].push_back(Bind(bundle_ + "/file", "/file", {"ro"}));
  Ended ended = Run(spec);
  EXPECT_EQ(ended.out, "0\n         0     200000      65536\nbound\nbox\nnull\n0\nCapEff:\t00000000a80425fb\n300\n");
  struct stat info {};
  ASSERT_EQ(stat((rootfs_ + "/new").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 200000u);
}

TEST_F(UserNamespace, ExecAndJoinByPath) {
  ASSERT_EQ(chown(rootfs_.c_str(), 200000, 200000), 0);
  for (const char* folder : {"/dev", "/proc", "/sys"}) ASSERT_EQ(chown((rootfs_ + folder).c_str(), 200000, 200000), 0);
  auto first = Create(MappedSpec("sleep 1000"));
  ASSERT_TRUE(first) << first.error().message;
  ASSERT_TRUE((*first)->Start());
  Ended ended = Exec(first->get(), ShellSpec("id -u; hostname; readlink /proc/self/ns/user")["process"]);
  std::string own = fs::read_symlink("/proc/" + std::to_string((*first)->init().pid) + "/ns/user").string();
  EXPECT_EQ(ended.out, "0\nbox\n" + own + "\n");
  // A second container of the pod: user, network and IPC namespaces of the first.
  json spec = ShellSpec("readlink /proc/self/ns/user; id -u; cat /proc/self/uid_map");
  std::string ns = "/proc/" + std::to_string((*first)->init().pid) + "/ns/";
  spec["linux"]["namespaces"] = {{{"type", "mount"}},
                                 {{"type", "pid"}},
                                 {{"type", "uts"}},
                                 {{"type", "user"}, {"path", ns + "user"}},
                                 {{"type", "network"}, {"path", ns + "net"}},
                                 {{"type", "ipc"}, {"path", ns + "ipc"}}};
  EXPECT_EQ(Run(spec).out, own + "\n0\n         0     200000      65536\n");
  EXPECT_TRUE((*first)->Delete(10'000));
  Wait((*first)->init());
}

// A pod's: namespaces that nobody lives in, an overlay over id-mapped layers, an id-mapped volume; the launcher itself
// stays the host's root.
class PodUserNamespace : public ContainerTest {
 protected:
  void SetUp() override {
    ContainerTest::SetUp();
    if (IsSkipped()) return;
    auto probed = ProbeUserNamespaces(bundle_);
    if (!probed) GTEST_SKIP() << probed.error().message;
    for (const char* name : {"upper", "work", "merged", "volume"}) fs::create_directory(bundle_ + "/" + name);
    ASSERT_EQ(chown((bundle_ + "/upper").c_str(), 200000, 200000), 0);
    fs::permissions(bundle_, fs::perms::owner_all);
  }

  // The spec of a container that joins `spaces`.
  CreateOptions PodOptions(const NewNamespaces& spaces, const std::string& script, bool map_volume = true) {
    json spec = ShellSpec(script);
    auto path = [](const UniqueFd& fd) { return "/proc/self/fd/" + std::to_string(fd.get()); };
    spec["linux"]["namespaces"] = {{{"type", "mount"}},
                                   {{"type", "pid"}},
                                   {{"type", "user"}, {"path", path(spaces.user)}},
                                   {{"type", "network"}, {"path", path(spaces.network)}},
                                   {{"type", "ipc"}, {"path", path(spaces.ipc)}},
                                   {{"type", "uts"}, {"path", path(spaces.uts)}}};
    json map = {{{"containerID", 0}, {"hostID", 200000}, {"size", 65536}}};
    spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = map;
    spec["root"]["path"] = bundle_ + "/merged";
    json volume = Bind(bundle_ + "/volume", "/volume", {});
    if (map_volume) volume["uidMappings"] = volume["gidMappings"] = map;
    spec["mounts"].push_back(volume);
    CreateOptions options = Options(spec);
    options.rootfs = {{"overlay",
                       "overlay",
                       {"lowerdir=" + rootfs_, "upperdir=" + bundle_ + "/upper", "workdir=" + bundle_ + "/work",
                        "uidmap=0:200000:65536", "gidmap=0:200000:65536"}}};
    return options;
  }

  static Result<NewNamespaces> MakeSpaces(const std::function<Result<>()>& inside = nullptr) {
    std::vector<IdMapping> map = {{0, 200000, 65536}};
    return MakeUserNamespace({map, map}, CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, inside);
  }

  static uid_t OwnerOf(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(lstat(path.c_str(), &info), 0) << path;
    return info.st_uid;
  }
};

TEST_F(PodUserNamespace, ImageAndVolumeKeepTheirOwners) {
  auto spaces = MakeSpaces();
  ASSERT_TRUE(spaces) << spaces.error().message;
  Ended ended = Run(PodOptions(*spaces,
                               "stat -c %u:%g / /bin/busybox /etc/passwd /volume; echo x >> /etc/passwd; touch /new "
                               "/volume/new; id -u; stat -c '%u %t:%T' /dev/null"));
  EXPECT_EQ(ended.out, "0:0\n0:0\n0:0\n0:0\n0\n65534 1:3\n");
  EXPECT_EQ(OwnerOf(bundle_ + "/volume/new"), 0u) << "as the volume has it, nobody of the pod's on the host";
  EXPECT_EQ(OwnerOf(bundle_ + "/upper/new"), 200000u);
  EXPECT_EQ(OwnerOf(bundle_ + "/upper/etc/passwd"), 200000u);
  EXPECT_EQ(OwnerOf(rootfs_ + "/etc/passwd"), 0u);
  EXPECT_EQ(geteuid(), 0u);
  EXPECT_EQ(OwnerOf("/proc/self/ns/user"), 0u);
}

TEST_F(PodUserNamespace, UnmappedVolumeIsNobodys) {
  auto spaces = MakeSpaces();
  ASSERT_TRUE(spaces) << spaces.error().message;
  Ended ended = Run(PodOptions(*spaces, "stat -c %u:%g /volume; touch /volume/new", false));
  EXPECT_THAT(ended.out, AllOf(StartsWith("65534:65534\n"), HasSubstr("Permission denied")));
}

// Containers own what they write to: /dev/stdout opened anew, by root and by another user, in init and in exec.
TEST_F(PodUserNamespace, StdioIsTheirs) {
  auto spaces = MakeSpaces();
  ASSERT_TRUE(spaces) << spaces.error().message;
  EXPECT_EQ(Run(PodOptions(*spaces, "echo out > /dev/stdout; echo err > /dev/stderr")).out, "out\nerr\n");
  auto container = Container::Create(PodOptions(*spaces, "sleep 1000"));
  ASSERT_TRUE(container) << container.error().message;
  ASSERT_TRUE((*container)->Start());
  json process = ShellSpec("echo out > /dev/stdout; id -u; grep CapEff /proc/self/status")["process"];
  EXPECT_EQ(Exec(container->get(), process).out, "out\n0\nCapEff:\t00000000a80425fb\n");
  process = ShellSpec("echo out > /dev/stdout; id -u")["process"];
  process["user"] = {{"uid", 1000}, {"gid", 1000}};
  EXPECT_EQ(Exec(container->get(), process).out, "out\n1000\n");
  process = ShellSpec("stat -c %u $(tty); echo x > /dev/tty")["process"];
  process["terminal"] = true;
  EXPECT_EQ(Exec(container->get(), process).out, "0\r\nx\r\n");
  process["user"] = {{"uid", 1000}, {"gid", 1000}};
  EXPECT_EQ(Exec(container->get(), process).out, "1000\r\nx\r\n");
  EXPECT_TRUE((*container)->Delete(10'000));
  Wait((*container)->init());
}

TEST_F(PodUserNamespace, WorkInsideHasItsRights) {
  auto spaces = MakeSpaces([]() -> Result<> {
    TRY(sys::WriteSysctl("kernel.msgmax", "12345"));
    return sys::WriteSysctl("net.ipv4.ip_unprivileged_port_start", "80");
  });
  ASSERT_TRUE(spaces) << spaces.error().message;
  Ended ended = Run(PodOptions(*spaces, "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start"));
  EXPECT_EQ(ended.out, "12345\n80\n");
  auto failed = MakeSpaces([]() -> Result<> { return sys::WriteSysctl("kernel.msgmax", "no number"); });
  ASSERT_FALSE(failed);
  EXPECT_THAT(failed.error().message, HasSubstr("kernel.msgmax"));
}

TEST_F(PodUserNamespace, OfAFileSystemThatCannot) {
  auto spaces = MakeSpaces();
  ASSERT_TRUE(spaces) << spaces.error().message;
  CreateOptions options = PodOptions(*spaces, "true");
  options.spec.mounts.back().source = "/proc";
  Error error = RunFails(std::move(options));
  EXPECT_EQ(error.code, Code::kFailedPrecondition);
  EXPECT_THAT(error.message, AllOf(HasSubstr("on '/volume'"), HasSubstr("on this file system")));
  // Mapped with ids of its own, and shared with the host, which anyone who is root in there could use.
  options = PodOptions(*spaces, "true");
  options.spec.mounts.back().options = {"rbind", "rshared"};
  EXPECT_THAT(RunFails(std::move(options)).message, HasSubstr("cannot be shared"));
}

// Without a user namespace of the container's.
TEST_F(PodUserNamespace, MountOnlyMapped) {
  json spec = ShellSpec("stat -c %u:%g /volume; touch /volume/new");
  json volume = Bind(bundle_ + "/volume", "/volume", {});
  volume["uidMappings"] = {{{"containerID", 0}, {"hostID", 7}, {"size", 1}}};
  volume["gidMappings"] = {{{"containerID", 0}, {"hostID", 8}, {"size", 1}}};
  spec["mounts"].push_back(volume);
  EXPECT_THAT(Run(spec).out, StartsWith("7:8\n"));
}

TEST_F(UserNamespace, FailuresLeaveNothing) {
  json spec = MappedSpec("true");
  spec["linux"]["uidMappings"] = json::array();
  EXPECT_THAT(RunFails(spec).message, HasSubstr("uidMappings"));
  spec = MappedSpec("true");
  spec["mounts"].push_back(Bind("/no/such/source", "/x", {}));
  EXPECT_THAT(RunFails(spec).message, HasSubstr("/no/such/source"));
  spec = MappedSpec("true");
  spec["linux"]["uidMappings"].push_back({{"containerID", 10}, {"hostID", 300000}, {"size", 10}});
  EXPECT_THAT(RunFails(spec).message, HasSubstr("overlap"));
}

}  // namespace
}  // namespace caisson::oci

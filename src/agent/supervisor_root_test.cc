// SPDX-License-Identifier: Apache-2.0
#include "agent/supervisor.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <string>

#include "agent/early_init.h"
#include "agent/launch_socket.h"
#include "agent/launcher.h"
#include "agent/launches.h"
#include "agent/rights.h"
#include "base/limits.h"
#include "caisson/guest/v1/guest.pb.h"
#include "caisson/guest/v1/launch.pb.h"
#include "caisson/wkt/wkt.pb.h"
#include "oci/clone.h"
#include "sys/path.h"

namespace caisson::agent {
namespace {

using testing::HasSubstr;

// PID 1 of a namespace of its own supervises `messenger`, a process that ends with what that returns.
class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "only root makes namespaces";
  }

  // Why it has ended.
  std::string Run(const std::function<int(UniqueFd socket)>& messenger, std::function<void(UniqueFd)> launch = &RunLauncher) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return "no pipe";
    UniqueFd reader(ends[0]), writer(ends[1]);
    auto cloned = oci::Clone(CLONE_NEWPID | CLONE_NEWNS, -1);
    if (!cloned) return cloned.error().message;
    if (cloned->pid == 0) {
      std::string why = RunAsInit(messenger, std::move(launch));
      (void)!write(writer.get(), why.data(), why.size());
      _exit(0);
    }
    writer.Reset();
    auto why = sys::ReadAll(reader.get(), 4096);
    oci::KillAndReap(cloned->pidfd.get());
    return why ? *why : why.error().message;
  }

 private:
  static std::string RunAsInit(const std::function<int(UniqueFd)>& messenger, std::function<void(UniqueFd)> launch) {
    mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    if (mount("proc", "/proc", "proc", 0, nullptr) != 0 || mount("run", "/run", "tmpfs", 0, "mode=0755") != 0) return "no mounts";
    mkdir(kRunDir, 0711);
    auto children = task::OwnChildren();
    if (!children) return children.error().message;
    auto pair = MakeSocketPair(SOCK_SEQPACKET);
    if (!pair) return pair.error().message;
    SupervisorOptions options;
    options.children = std::move(*children);
    options.messenger = fork();
    if (options.messenger == 0) {
      pair->first.Reset();
      _exit(messenger(std::move(pair->second)));
    }
    pair->second.Reset();
    options.socket = std::move(pair->first);
    options.launch = std::move(launch);
    options.notices = 20;
    return Supervise(std::move(options));
  }
};

// Each by its own number, so that the one that fails is named.
#define REQUIRE(condition, number) \
  if (!(condition)) return number

guest::v1::PrepareContainerRequest Bundle(const std::string& id) {
  guest::v1::PrepareContainerRequest request;
  request.set_id(id);
  request.set_config_json("{}");
  return request;
}

TEST_F(SupervisorTest, EndsWithTheMessenger) {
  EXPECT_EQ(Run([](UniqueFd) { return 7; }), "the agent ended with status 7");
  EXPECT_THAT(Run([](UniqueFd) -> int { return kill(getpid(), SIGKILL), 0; }), HasSubstr("killed by signal 9"));
  // One that has closed its socket is waited for.
  EXPECT_EQ(Run([](UniqueFd socket) -> int {
              socket.Reset();
              return 9;
            }),
            "the agent ended with status 9");
}

TEST_F(SupervisorTest, LaunchersDoWhatTheMessengerMayNot) {
  std::string why = Run([](UniqueFd socket) -> int {
    Launches launches(std::move(socket));
    REQUIRE(DropRights(), 1);
    REQUIRE(mkdir((std::string(kRunDir) + "/mine").c_str(), 0700) != 0, 2);
    auto made = launches.Call<guest::v1::PrepareContainerRequest, wkt::Empty>("MakeBundle", Bundle("c1"));
    REQUIRE(made, 3);
    // Its group may look, and no more.
    REQUIRE(sys::ReadFile(ContainerDir("c1") + "/config.json", 64).value_or("") == "{}", 4);
    REQUIRE(open((ContainerDir("c1") + "/config.json").c_str(), O_WRONLY) < 0, 5);
    // Not twice.
    REQUIRE(!(launches.Call<guest::v1::PrepareContainerRequest, wkt::Empty>("MakeBundle", Bundle("c1"))), 6);
    guest::v1::ReleaseContainerRequest release;
    release.set_id("c1");
    REQUIRE((launches.Call<guest::v1::ReleaseContainerRequest, wkt::Empty>("RemoveBundle", release)), 7);
    REQUIRE(access(ContainerDir("c1").c_str(), F_OK) != 0, 8);
    return 0;
  });
  EXPECT_EQ(why, "the agent ended with status 0");
}

TEST_F(SupervisorTest, NamesThatLeadElsewhereAreRefused) {
  std::string why = Run([](UniqueFd socket) -> int {
    Launches launches(std::move(socket));
    for (const char* id : {"../x", "a/b", "", ".."}) {
      auto made = launches.Call<guest::v1::PrepareContainerRequest, wkt::Empty>("MakeBundle", Bundle(id));
      REQUIRE(!made && made.error().code == Code::kInvalidArgument, 1);
    }
    guest::v1::MountLayersRequest layers;
    auto* layer = layers.add_layers();
    layer->set_serial("../../etc");
    layer->set_device("/dev/null");
    REQUIRE(!(launches.Call<guest::v1::MountLayersRequest, guest::v1::MountLayersResponse>("MountLayers", layers)), 2);
    layer->set_serial("s");
    layer->set_device("/dev/../etc/passwd");
    REQUIRE(!(launches.Call<guest::v1::MountLayersRequest, guest::v1::MountLayersResponse>("MountLayers", layers)), 3);
    guest::v1::PutVolumeRequest volume;
    volume.set_volume("../v");
    REQUIRE(!(launches.Call<guest::v1::PutVolumeRequest, wkt::Empty>("PutVolume", volume)), 4);
    volume.set_volume("v");
    auto* file = volume.add_files();
    file->set_path("../../../etc/x");
    file->set_mode(S_IFREG | 0600);
    REQUIRE(!(launches.Call<guest::v1::PutVolumeRequest, wkt::Empty>("PutVolume", volume)), 5);
    guest::v1::CreateContainerRequest create;
    create.set_id("c");
    create.set_bundle("/etc");
    REQUIRE(!(launches.Call<guest::v1::CreateContainerRequest, guest::v1::CreateContainerResponse>("CreateContainer", create)), 6);
    REQUIRE(!(launches.Call<wkt::Empty, guest::v1::DebugBundleResponse>("MakeDebugBundle", {})), 7);
    auto unknown = launches.Call<wkt::Empty, wkt::Empty>("Reboot", {});
    REQUIRE(!unknown && unknown.error().code == Code::kUnimplemented, 8);
    return 0;
  });
  EXPECT_EQ(why, "the agent ended with status 0");
}

TEST_F(SupervisorTest, VolumesAreWrittenInParts) {
  std::string why = Run([](UniqueFd socket) -> int {
    Launches launches(std::move(socket));
    auto put = [&](const guest::v1::PutVolumeRequest& request) { return launches.Call<guest::v1::PutVolumeRequest, wkt::Empty>("PutVolume", request); };
    const std::string dir = std::string(kRunDir) + "/volumes/v/";
    guest::v1::PutVolumeRequest first;
    first.set_volume("v");
    for (const char* name : {"old", "kept"}) {
      auto* file = first.add_files();
      file->set_path(name);
      file->set_mode(S_IFREG | 0640);
      file->set_content(name);
    }
    REQUIRE(put(first), 1);
    guest::v1::PutVolumeRequest second;
    second.set_volume("v");
    second.set_commit(true);
    second.add_mentioned("kept");
    second.add_mentioned("link");
    auto* link = second.add_links();
    link->set_path("link");
    link->set_mode(S_IFLNK | 0777);
    link->set_content("kept");
    REQUIRE(put(second), 2);
    REQUIRE(sys::ReadFile(dir + "link", 64).value_or("") == "kept", 3);
    REQUIRE(access((dir + "old").c_str(), F_OK) != 0, 4);
    // A link that leads out is no way out.
    second.mutable_links(0)->set_path("out");
    second.mutable_links(0)->set_content("/etc");
    second.add_mentioned("out");
    REQUIRE(put(second), 5);
    guest::v1::PutVolumeRequest third;
    third.set_volume("v");
    auto* file = third.add_files();
    file->set_path("out/caisson-was-here");
    file->set_mode(S_IFREG | 0600);
    REQUIRE(!put(third), 6);
    guest::v1::GetFileRequest get;
    get.set_volume("v");
    get.set_path("out/hostname");
    get.set_limit(64);
    REQUIRE(!(launches.Call<guest::v1::GetFileRequest, guest::v1::GetFileResponse>("GetFile", get)), 7);
    return 0;
  });
  EXPECT_EQ(why, "the agent ended with status 0");
}

TEST_F(SupervisorTest, TellsOfProcessesThatOutliveTheirLauncher) {
  auto launch = [](UniqueFd connection) {
    auto word = ReceiveLaunch(connection.get(), Deadline::After(5000));
    if (!word) return;
    pid_t child = fork();
    if (child == 0) {
      connection.Reset();
      char byte;
      (void)!read(word->fds[0].get(), &byte, 1);
      _exit(42);
    }
    guest::v1::LaunchAnswer answer;
    guest::v1::CreateContainerResponse made;
    made.set_pid(child);
    answer.set_answer(made.SerializeAsString());
    (void)SendLaunch(connection.get(), answer.SerializeAsString(), {}, Deadline::After(5000));
  };
  std::string why = Run(
      [](UniqueFd socket) -> int {
        Launches launches(std::move(socket));
        int ends[2];
        REQUIRE(pipe2(ends, O_CLOEXEC) == 0, 1);
        auto made = launches.Call<wkt::Empty, guest::v1::CreateContainerResponse>("Make", {}, {ends[0]});
        REQUIRE(made && made->pid() > 0, 2);
        REQUIRE(!launches.Next(), 3);
        REQUIRE(write(ends[1], "x", 1) == 1, 4);
        pollfd wait{launches.fd(), POLLIN, 0};
        REQUIRE(poll(&wait, 1, 10'000) == 1, 5);
        auto ended = launches.Next();
        REQUIRE(ended && ended->pid == made->pid() && ended->status == 42 && ended->at_nanos > 0, 6);
        return 0;
      },
      launch);
  EXPECT_EQ(why, "the agent ended with status 0");
}

// As one does that is to be a container's process: PID 1 reaps it, and it is told of under the number that the messenger knows.
TEST_F(SupervisorTest, ALauncherIsBornWhereItIsTo) {
  auto launch = [](UniqueFd connection) {
    auto word = ReceiveLaunch(connection.get(), Deadline::After(5000));
    if (!word) return;
    guest::v1::LaunchAnswer answer;
    guest::v1::CreateContainerResponse made;
    made.set_pid(getpid());
    answer.set_answer(made.SerializeAsString());
    (void)SendLaunch(connection.get(), answer.SerializeAsString(), {}, Deadline::After(5000));
    _exit(43);
  };
  std::string why = Run(
      [](UniqueFd socket) -> int {
        auto cloned = oci::Clone(CLONE_NEWPID, -1);
        REQUIRE(cloned, 1);
        if (cloned->pid == 0) {
          pause();
          _exit(0);
        }
        Launches launches(std::move(socket));
        Birthplace place;
        place.cgroup = UniqueFd(open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (access("/sys/fs/cgroup/cgroup.procs", F_OK) != 0) place.cgroup = UniqueFd(open("/sys/fs/cgroup/unified", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!place.cgroup) return 0;  // a host without cgroup v2
        place.pid_namespace = std::move(cloned->pidfd);
        std::vector<UniqueFd> got;
        int pid = 0;
        auto made = launches.CallIn<wkt::Empty, guest::v1::CreateContainerResponse>(place, "Make", {}, {}, &got, &pid);
        // In there it is the second one, after the init; here it has another number.
        REQUIRE(made && made->pid() == 2 && pid > 2, 2);
        pollfd wait{launches.fd(), POLLIN, 0};
        REQUIRE(poll(&wait, 1, 10'000) == 1, 3);
        auto ended = launches.Next();
        REQUIRE(ended && ended->pid == pid && ended->status == 43, 4);
        // The namespace has ended: nobody is born there.
        kill(cloned->pid, SIGKILL);
        oci::KillAndReap(place.pid_namespace.get());
        auto none = launches.CallIn<wkt::Empty, guest::v1::CreateContainerResponse>(place, "Make", {}, {}, &got, &pid);
        REQUIRE(!none, 5);
        // Others are born as before.
        auto other = launches.Call<wkt::Empty, guest::v1::CreateContainerResponse>("Make", {});
        REQUIRE(other && other->pid() > 2, 6);
        return 0;
      },
      launch);
  EXPECT_EQ(why, "the agent ended with status 0");
}

TEST_F(SupervisorTest, ALauncherThatDiesIsAnError) {
  std::string why = Run(
      [](UniqueFd socket) -> int {
        Launches launches(std::move(socket));
        auto made = launches.Call<wkt::Empty, wkt::Empty>("Make", {});
        REQUIRE(!made && (made.error().code == Code::kUnavailable || made.error().sys_errno != 0), 1);
        return 0;
      },
      [](UniqueFd) { kill(getpid(), SIGKILL); });
  EXPECT_EQ(why, "the agent ended with status 0");
}

TEST_F(SupervisorTest, WhatTheMessengerMustNotSayEndsIt) {
  for (const char* word : {"L", "X", "LL"}) {
    EXPECT_EQ(Run([word](UniqueFd socket) -> int {
                (void)send(socket.get(), word, strlen(word), MSG_NOSIGNAL);
                pause();
                return 0;
              }),
              "the agent speaks out of turn")
        << word;
  }
}

TEST_F(SupervisorTest, AMessengerThatDoesNotListenIsGivenUp) {
  // Each launcher leaves many orphans, all of which end at once.
  auto launch = [](UniqueFd) {
    for (int i = 0; i < 200; ++i) {
      if (fork() == 0) {
        while (getppid() != 1) sched_yield();
        _exit(0);
      }
    }
  };
  std::string why = Run(
      [](UniqueFd socket) -> int {
        for (;;) {
          auto pair = MakeSocketPair(SOCK_STREAM);
          if (!pair || !AskForLauncher(socket.get(), pair->second.get(), nullptr, Deadline::After(10'000))) break;
          pair->second.Reset();
          (void)ReceiveLaunch(pair->first.get(), Deadline::After(10'000));  // its end
        }
        pause();
        return 0;
      },
      launch);
  EXPECT_EQ(why, "the agent does not listen");
}

TEST_F(SupervisorTest, TheMessengerHasNoRights) {
  std::string why = Run([](UniqueFd) -> int {
    REQUIRE(DropRights(), 1);
    auto status = sys::ReadFile("/proc/self/status", 8192);
    REQUIRE(status, 2);
    for (const char* line : {"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000",
                             "NoNewPrivs:\t1", "Groups:\t \n", "Uid:\t2147483646\t2147483646\t2147483646\t2147483646"}) {
      REQUIRE(status->find(line) != std::string::npos, 3);
    }
    REQUIRE(AllowMessengerCalls(), 4);
    REQUIRE(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) < 0 && errno == EPERM, 5);
    char* none[] = {nullptr};
    REQUIRE(execve("/bin/true", none, none) < 0 && errno == EPERM, 6);
    REQUIRE(kill(1, 0) < 0 && errno == EPERM, 7);
    REQUIRE(mount("x", "/", "tmpfs", 0, nullptr) < 0 && errno == EPERM, 8);
    REQUIRE(syscall(SYS_bpf, 0, nullptr, 0) < 0 && errno == EPERM, 9);
    REQUIRE(sys::ReadFile("/proc/meminfo", 1 << 16), 10);
    return 0;
  });
  EXPECT_EQ(why, "the agent ended with status 0");
}

#undef REQUIRE

}  // namespace
}  // namespace caisson::agent

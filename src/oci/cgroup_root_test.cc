// SPDX-License-Identifier: Apache-2.0
//
// Cgroups of a real kernel. Each test makes its groups below caisson-test-b-<pid> and leaves nothing.
#include "oci/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include <gtest/gtest.h>

#include "base/scope_exit.h"
#include "base/strings.h"
#include "oci/cgroup_device_bpf.h"
#include "oci/cgroup_dir.h"
#include "oci/cgroup_v1.h"
#include "sys/cgroup.h"

namespace caisson::oci {
namespace {

const CgroupHierarchy* Find(const Cgroup& group, const std::string& controller) {
  for (const auto& one : group.Hierarchies()) {
    if (std::find(one.controllers.begin(), one.controllers.end(), controller) != one.controllers.end()) return &one;
  }
  return nullptr;
}

class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root to make cgroups";
    auto mounts = sys::ReadCgroupMounts();
    ASSERT_TRUE(mounts) << mounts.error().message;
    mounts_ = *mounts;
    if (mounts_.empty()) GTEST_SKIP() << "no cgroup hierarchy is mounted";
    parent_ = fmt::format("caisson-test-b-{}", getpid());
  }
  void TearDown() override {
    for (const auto& mount : mounts_) {
      std::string dir = mount.mount_point + "/" + parent_;
      EXPECT_TRUE(CgroupEmpty(dir).value_or(true)) << dir;
      EXPECT_TRUE(RemoveCgroup(dir)) << dir;
      EXPECT_FALSE(CgroupPathExists(dir)) << dir;
    }
  }
  CgroupOptions Options(Resources resources = {}) {
    CgroupOptions options;
    options.path = "/" + parent_ + "/ctr";
    options.resources = std::move(resources);
    return options;
  }
  bool NothingLeft() {
    return std::none_of(mounts_.begin(), mounts_.end(), [this](const auto& mount) {
      return CgroupPathExists(mount.mount_point + "/" + parent_);
    });
  }
  bool V1() { return sys::ModeOf(mounts_) != sys::CgroupMode::kV2; }

  std::string parent_;
  std::vector<sys::CgroupMount> mounts_;
};

// Clones a child as the launcher does (CLONE_INTO_CGROUP, then "0" into the v1 files) that runs `body` when inside.
template <class F>
pid_t Spawn(Cgroup* group, F body) {
  auto fds = group->JoinFds();
  if (!fds) return -1;
  clone_args args{};
  args.exit_signal = SIGCHLD;
  int into = group->CloneIntoFd();
  if (into >= 0) {
    args.flags = CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(into);
  }
  auto pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
  if (pid == 0) {
    for (int fd : *fds) {
      if (write(fd, "0", 1) != 1) _exit(99);
    }
    body();
    _exit(0);
  }
  return pid;
}

int Reap(pid_t pid) {
  int status = -1;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

TEST_F(CgroupTest, LimitsAreWhatTheKernelHolds) {
  Resources r;
  r.memory.emplace();
  r.memory->limit = 64 << 20;
  r.memory->swap = 64 << 20;
  r.cpu.emplace();
  r.cpu->shares = 512;
  r.cpu->quota = 50'000;
  r.cpu->period = 100'000;
  r.cpu->cpus = "0";
  r.pids_limit = 17;
  r.hugepage_limits.push_back({"2MB", 0});
  auto group = Cgroup::Create(Options(r));
  ASSERT_TRUE(group) << group.error().message;
  auto stats = (*group)->Stats(StatsPart::kAll);
  ASSERT_TRUE(stats) << stats.error().message;
  EXPECT_EQ(stats->memory.limit, uint64_t{64} << 20);
  EXPECT_EQ(stats->pids.limit, 17u);
  if (V1()) {
    EXPECT_EQ(*ReadCgroupFile(Find(**group, "cpu")->path + "/cpu.shares"), "512");
    EXPECT_EQ(*ReadCgroupFile(Find(**group, "cpu")->path + "/cpu.cfs_quota_us"), "50000");
    EXPECT_EQ(*ReadCgroupFile(Find(**group, "cpuset")->path + "/cpuset.cpus"), "0");
    EXPECT_EQ(*ReadCgroupNumber(Find(**group, "memory")->path + "/memory.memsw.limit_in_bytes"), uint64_t{64} << 20);
  }
  // Up, where memory and swap only hold together in one order; then down in the other.
  for (int64_t mib : {256, 32}) {
    Resources change;
    change.memory.emplace();
    change.memory->limit = mib << 20;
    change.memory->swap = mib << 20;
    auto applied = (*group)->Apply(change);
    ASSERT_TRUE(applied) << applied.error().message;
    EXPECT_EQ((*group)->Stats(StatsPart::kAll)->memory.limit, static_cast<uint64_t>(mib) << 20);
  }
  auto opened = Cgroup::Open(Options());
  ASSERT_TRUE(opened);
  EXPECT_EQ((*opened)->Stats(StatsPart::kAll)->memory.limit, uint64_t{32} << 20);
  EXPECT_TRUE((*group)->Delete(Deadline::After(5000)));
  EXPECT_TRUE((*group)->Delete(Deadline::After(5000))) << "a second time is no error";
  EXPECT_EQ(Cgroup::Open(Options()).error().code, Code::kNotFound);
}

TEST_F(CgroupTest, QuotaAndPeriodThatOnlyHoldTogether) {
  Resources parent;
  parent.cpu.emplace();
  parent.cpu->quota = 50'000;
  parent.cpu->period = 100'000;
  CgroupOptions options = Options(parent);
  options.path = parent_;
  auto outer = Cgroup::Create(options);
  ASSERT_TRUE(outer) << outer.error().message;
  auto group = Cgroup::Create(Options(parent));
  ASSERT_TRUE(group) << group.error().message;
  // 50000/50000 would be a whole CPU, twice the parent's: the period alone is refused before the quota is lower.
  Resources change;
  change.cpu.emplace();
  change.cpu->quota = 10'000;
  change.cpu->period = 50'000;
  auto applied = (*group)->Apply(change);
  EXPECT_TRUE(applied) << applied.error().message;
  EXPECT_TRUE((*group)->Delete(Deadline::After(5000)));
  EXPECT_TRUE((*outer)->Delete(Deadline::After(5000)));
}

TEST_F(CgroupTest, EscapingPathsAreRefused) {
  for (const char* path : {"../x", "/a/../../b", "/", "", "a//b", "a/./b", "a\nb"}) {
    CgroupOptions options;
    options.path = path;
    auto group = Cgroup::Create(options);
    ASSERT_FALSE(group) << path;
    EXPECT_EQ(group.error().code, Code::kInvalidArgument) << path;
  }
}

TEST_F(CgroupTest, ValueTheKernelRefusesNamesFileAndLeavesNothing) {
  Resources r;
  r.cpu.emplace();
  r.cpu->cpus = "4000";
  auto group = Cgroup::Create(Options(r));
  ASSERT_FALSE(group);
  EXPECT_NE(group.error().message.find("cpuset.cpus"), std::string::npos) << group.error().message;
  EXPECT_NE(group.error().message.find("4000"), std::string::npos) << group.error().message;
  EXPECT_TRUE(NothingLeft());
  r.cpu->cpus.clear();
  r.cpu->shares = 1;
  if (!V1()) return;
  group = Cgroup::Create(Options(r));
  ASSERT_FALSE(group) << "shares 1 is silently made 2 by the kernel";
  EXPECT_NE(group.error().message.find("cpu.shares"), std::string::npos) << group.error().message;
  EXPECT_TRUE(NothingLeft());
}

TEST_F(CgroupTest, FailureInAnyHierarchyRollsBackAll) {
  if (!V1()) GTEST_SKIP() << "needs several hierarchies";
  for (size_t bad = 0; bad < mounts_.size(); ++bad) {
    auto mounts = mounts_;
    mounts[bad].mount_point = "/proc";  // where nobody can make a directory
    CgroupV1 group(mounts, parent_ + "/ctr", nullptr);
    EXPECT_FALSE(group.Make(Options()));
    EXPECT_TRUE(NothingLeft()) << bad;
  }
}

TEST_F(CgroupTest, UnifiedIsRefusedOnV1) {
  if (!V1()) GTEST_SKIP() << "this host's controllers are on v2";
  Resources r;
  r.unified["memory.high"] = "1000000";
  auto group = Cgroup::Create(Options(r));
  ASSERT_FALSE(group);
  EXPECT_NE(group.error().message.find("memory.high"), std::string::npos);
  EXPECT_TRUE(NothingLeft());
}

TEST_F(CgroupTest, ChildIsInEveryHierarchyAndOccupiedNameIsRefused) {
  auto group = Cgroup::Create(Options());
  ASSERT_TRUE(group) << group.error().message;
  pid_t pid = Spawn(group->get(), [] { for (;;) pause(); });
  ASSERT_GT(pid, 0);
  // It has joined all when the last of them shows it.
  std::string last = (*group)->Hierarchies().back().path;
  EXPECT_TRUE(*PollUntil(Deadline::After(5000), [&]() -> Result<bool> { return !TRY(CgroupPids(last)).empty(); }));
  for (const auto& one : (*group)->Hierarchies()) EXPECT_EQ(*CgroupPids(one.path), std::vector<int>{pid}) << one.path;
  EXPECT_EQ(*(*group)->Pids(), std::vector<int>{pid});
  EXPECT_EQ(Cgroup::Create(Options()).error().code, Code::kAlreadyExists);
  EXPECT_TRUE((*group)->Kill(Deadline::After(5000)));
  EXPECT_EQ(WTERMSIG(Reap(pid)), SIGKILL);
  // Empty, but still there: a new container of the name takes it over, without its old limits.
  auto again = Cgroup::Create(Options());
  EXPECT_TRUE(again) << again.error().message;
  EXPECT_TRUE((*again)->Delete(Deadline::After(5000)));
}

TEST_F(CgroupTest, AttachMovesALivingProcess) {
  auto group = Cgroup::Create(Options());
  ASSERT_TRUE(group);
  pid_t pid = fork();
  if (pid == 0) for (;;) pause();
  auto attached = (*group)->Attach(pid);
  EXPECT_TRUE(attached) << attached.error().message;
  EXPECT_EQ(*(*group)->Pids(), std::vector<int>{pid});
  EXPECT_TRUE((*group)->Signal(SIGTERM));
  EXPECT_EQ(WTERMSIG(Reap(pid)), SIGTERM);
  EXPECT_FALSE((*group)->Attach(pid)) << "a process that is gone";
  EXPECT_TRUE((*group)->Delete(Deadline::After(5000)));
}

TEST_F(CgroupTest, ForkBombDies) {
  Resources r;
  r.pids_limit = 200;
  for (bool hybrid : {true, false}) {
    // Without cgroup2 there is no cgroup.kill: freezer and signals must do.
    std::vector<sys::CgroupMount> mounts = mounts_;
    if (!hybrid) std::erase_if(mounts, [](const auto& mount) { return mount.v2; });
    if (mounts.empty()) continue;
    std::unique_ptr<Cgroup> group;
    if (hybrid) {
      auto made = Cgroup::Create(Options(r));
      ASSERT_TRUE(made) << made.error().message;
      group = *std::move(made);
    } else {
      auto v1 = std::make_unique<CgroupV1>(mounts, parent_ + "/ctr", nullptr);
      auto made = v1->Make(Options(r));
      ASSERT_TRUE(made) << made.error().message;
      group = std::move(v1);
    }
    pid_t pid = Spawn(group.get(), [] {
      signal(SIGTERM, SIG_IGN);
      signal(SIGCHLD, SIG_IGN);
      for (;;) fork();  // each copy goes on; pids.max holds them at 200
    });
    ASSERT_GT(pid, 0);
    EXPECT_TRUE(*PollUntil(Deadline::After(20'000), [&]() -> Result<bool> { return TRY(group->Pids()).size() > 100; }));
    auto killed = group->Kill(Deadline::After(20'000));
    EXPECT_TRUE(killed) << killed.error().message;
    EXPECT_TRUE(group->Pids()->empty());
    Reap(pid);
    EXPECT_TRUE(group->Delete(Deadline::After(5000)));
  }
}

TEST_F(CgroupTest, FreezeStopsAndThawResumes) {
  auto group = Cgroup::Create(Options());
  ASSERT_TRUE(group);
  int pipes[2];
  ASSERT_EQ(pipe2(pipes, O_CLOEXEC | O_NONBLOCK), 0);
  pid_t pid = Spawn(group->get(), [&] {
    for (;;) {
      if (write(pipes[1], "x", 1) < 0 && errno != EAGAIN) _exit(1);
    }
  });
  auto drained = [&] {
    char buffer[65536];
    ssize_t n = 0, sum = 0;
    while ((n = read(pipes[0], buffer, sizeof buffer)) > 0) sum += n;
    return sum;
  };
  EXPECT_TRUE(*PollUntil(Deadline::After(5000), [&]() -> Result<bool> { return drained() > 0; }));
  for (int again = 0; again < 2; ++again) {
    auto frozen = (*group)->Freeze(Deadline::After(5000));
    ASSERT_TRUE(frozen) << frozen.error().message;
  }
  EXPECT_TRUE(*(*group)->Frozen());
  drained();
  EXPECT_EQ(drained(), 0);
  EXPECT_TRUE((*group)->Thaw());
  EXPECT_FALSE(*(*group)->Frozen());
  EXPECT_TRUE(*PollUntil(Deadline::After(5000), [&]() -> Result<bool> { return drained() > 0; }));
  // Deleting a frozen group kills what is in it.
  ASSERT_TRUE((*group)->Freeze(Deadline::After(5000)));
  auto deleted = (*group)->Delete(Deadline::After(5000));
  EXPECT_TRUE(deleted) << deleted.error().message;
  EXPECT_EQ(WTERMSIG(Reap(pid)), SIGKILL);
  close(pipes[0]);
  close(pipes[1]);
}

TEST_F(CgroupTest, OomKillIsCountedAndAnnounced) {
  Resources r;
  r.memory.emplace();
  r.memory->limit = 16 << 20;
  r.memory->swap = 16 << 20;
  auto group = Cgroup::Create(Options(r));
  ASSERT_TRUE(group) << group.error().message;
  auto events = (*group)->OomEvents();
  ASSERT_TRUE(events) << events.error().message;
  EXPECT_EQ(*(*group)->OomKills(), 0u);
  pid_t pid = Spawn(group->get(), [] {
    size_t size = 64 << 20;
    auto* p = static_cast<volatile char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (size_t i = 0; i < size; i += 4096) p[i] = 1;
  });
  int status = Reap(pid);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  pollfd fd{events->get(), POLLIN, 0};
  EXPECT_EQ(poll(&fd, 1, 5000), 1);
  EXPECT_EQ(*(*group)->OomKills(), 1u);
  EXPECT_EQ((*group)->Stats(StatsPart::kAll)->memory.oom_kills, 1u);
  EXPECT_GT((*group)->Stats(StatsPart::kAll)->memory.page_faults, 0u);
  EXPECT_TRUE((*group)->Delete(Deadline::After(5000)));
}

TEST_F(CgroupTest, StatsCountCpuAndPids) {
  auto group = Cgroup::Create(Options());
  ASSERT_TRUE(group);
  pid_t pid = Spawn(group->get(), [] {
    // Pages of its own: the kernel counts in batches, and a few may not show.
    static char pages[4 << 20];
    for (size_t i = 0; i < sizeof pages; i += 4096) const_cast<volatile char*>(pages)[i] = 1;
    for (uint64_t i = 0; i < 50'000'000; ++i) asm volatile("");
    for (;;) pause();
  });
  EXPECT_TRUE(*PollUntil(Deadline::After(20'000), [&]() -> Result<bool> {
    auto stats = TRY((*group)->Stats(StatsPart::kAll));
    return stats.cpu.usage_nanos > 1'000'000 && stats.pids.current == 1 && stats.memory.usage > 0;
  }));
  auto stats = (*group)->Stats(StatsPart::kAll);
  EXPECT_GT(stats->at_nanos, 0);
  EXPECT_EQ(stats->memory.limit, UINT64_MAX);
  EXPECT_LE(stats->memory.working_set, stats->memory.usage);
  EXPECT_EQ(stats->cpu.psi.has_value(), CgroupPathExists("/proc/pressure") && (*group)->CloneIntoFd() >= 0);
  EXPECT_TRUE((*group)->Delete(Deadline::After(5000)));
  Reap(pid);
}

TEST_F(CgroupTest, DeleteRemovesGroupsMadeInside) {
  auto group = Cgroup::Create(Options());
  ASSERT_TRUE(group);
  std::vector<std::string> made;
  for (const auto& one : (*group)->Hierarchies()) {
    ASSERT_TRUE(MakeCgroup(one.path, "a/b/c", &made, [](const std::string&) -> Result<> { return {}; }));
  }
  pid_t pid = fork();
  if (pid == 0) for (;;) pause();
  ASSERT_TRUE(WriteCgroupFile((*group)->Hierarchies()[0].path + "/a/b/cgroup.procs", fmt::format("{}", pid)));
  EXPECT_EQ(*(*group)->Pids(), std::vector<int>{pid});
  auto deleted = (*group)->Delete(Deadline::After(5000));
  EXPECT_TRUE(deleted) << deleted.error().message;
  EXPECT_EQ(WTERMSIG(Reap(pid)), SIGKILL);
}

TEST_F(CgroupTest, DeviceRulesHold) {
  Resources r;
  r.devices.push_back({false, 'a', std::nullopt, std::nullopt, "rwm"});
  r.devices.push_back({true, 'c', 1, 3, "rwm"});   // null
  r.devices.push_back({true, 'c', 1, 5, "r"});     // zero, to read
  auto group = Cgroup::Create(Options(r));
  ASSERT_TRUE(group) << group.error().message;
  auto check = [&] {
    pid_t pid = Spawn(group->get(), [] {
      int bits = 0;
      if (open("/dev/null", O_RDWR | O_CLOEXEC) >= 0) bits |= 1;
      if (open("/dev/zero", O_RDONLY | O_CLOEXEC) >= 0) bits |= 2;
      if (open("/dev/zero", O_RDWR | O_CLOEXEC) >= 0) bits |= 4;
      if (open("/dev/urandom", O_RDONLY | O_CLOEXEC) >= 0) bits |= 8;
      _exit(bits);
    });
    return WEXITSTATUS(Reap(pid));
  };
  EXPECT_EQ(check(), 1 | 2);
  Resources change;
  change.devices = r.devices;
  change.devices.pop_back();
  change.devices.push_back({true, 'c', 1, 9, "rwm"});  // urandom instead of zero
  auto applied = (*group)->Apply(change);
  ASSERT_TRUE(applied) << applied.error().message;
  EXPECT_EQ(check(), 1 | 8);
  EXPECT_TRUE((*group)->Delete(Deadline::After(5000)));
}

// The v2 device program, on whatever cgroup2 the host has.
TEST_F(CgroupTest, DeviceProgramHolds) {
  auto group = Cgroup::Create(Options());
  ASSERT_TRUE(group) << group.error().message;
  auto unified = std::find_if((*group)->Hierarchies().begin(), (*group)->Hierarchies().end(), [](const auto& one) { return one.v2; });
  if (unified == (*group)->Hierarchies().end()) {
    EXPECT_TRUE((*group)->Delete(Deadline::After(5000)));
    GTEST_SKIP() << "needs a cgroup2 hierarchy";
  }
  auto opens = [&] {
    pid_t pid = Spawn(group->get(), [] {
      int bits = 0;
      if (open("/dev/null", O_RDWR | O_CLOEXEC) >= 0) bits |= 1;
      if (open("/dev/zero", O_RDONLY | O_CLOEXEC) >= 0) bits |= 2;
      if (open("/dev/zero", O_RDWR | O_CLOEXEC) >= 0) bits |= 4;
      _exit(bits);
    });
    return WEXITSTATUS(Reap(pid));
  };
  std::vector<Resources::DeviceRule> rules = {{false, 'a', std::nullopt, std::nullopt, ""}, {true, 'c', 1, 3, "rw"}, {true, 'c', 1, 5, "r"}};
  auto attached = AttachDeviceProgram(unified->path, *CompileDeviceRules(rules));
  if (!attached && (attached.error().sys_errno == EINVAL || attached.error().sys_errno == ENOSYS)) {
    EXPECT_TRUE((*group)->Delete(Deadline::After(5000)));
    GTEST_SKIP() << "needs a kernel with CONFIG_CGROUP_BPF: " << attached.error().message;
  }
  EXPECT_TRUE(attached) << attached.error().message;
  EXPECT_EQ(opens(), 1 | 2);
  // A second program takes the place of the first instead of adding to it.
  rules[1].minor = 5;
  attached = AttachDeviceProgram(unified->path, *CompileDeviceRules(rules));
  EXPECT_TRUE(attached) << attached.error().message;
  EXPECT_EQ(opens(), 2 | 4);
  EXPECT_TRUE((*group)->Delete(Deadline::After(5000)));
}

}  // namespace
}  // namespace caisson::oci

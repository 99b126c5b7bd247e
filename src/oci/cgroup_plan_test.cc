// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_plan.h"

#include <gtest/gtest.h>

namespace caisson::oci {
namespace {

CgroupView Everything() {
  CgroupView view;
  view.has_controller = [](std::string_view) { return true; };
  view.has_file = [](std::string_view, const std::string& file) { return file == "blkio.weight"; };
  return view;
}

CgroupView Without(std::string missing) {
  CgroupView view = Everything();
  view.has_controller = [missing](std::string_view name) { return name != missing; };
  return view;
}

// "file=value" of each write, in order.
std::string Text(const Result<std::vector<CgroupWrite>>& plan) {
  if (!plan) return "error: " + plan.error().message;
  std::string out;
  for (const CgroupWrite& write : *plan) out += (out.empty() ? "" : " | ") + write.file + "=" + write.value;
  return out;
}

Resources Memory(std::optional<int64_t> limit, std::optional<int64_t> swap) {
  Resources r;
  r.memory.emplace();
  r.memory->limit = limit;
  r.memory->swap = swap;
  return r;
}

TEST(CgroupPath, CleanAndRefused) {
  EXPECT_EQ(*CleanCgroupPath("/a/b.c/d-e_f/"), "a/b.c/d-e_f");
  EXPECT_EQ(*CleanCgroupPath("a"), "a");
  for (std::string path : {"", "/", "..", "a/..", "../a", "a//b", "./a", "a/.", "a\nb"}) EXPECT_FALSE(CleanCgroupPath(path)) << path;
  EXPECT_FALSE(CleanCgroupPath(std::string("a\0b", 3)));
  EXPECT_FALSE(CleanCgroupPath(std::string(300, 'x')));
}

TEST(CgroupConversion, SharesToWeight) {
  EXPECT_EQ(CpuWeightOfShares(0), 1u);
  EXPECT_EQ(CpuWeightOfShares(2), 1u);
  EXPECT_EQ(CpuWeightOfShares(1024), 100u);
  EXPECT_EQ(CpuWeightOfShares(262144), 10000u);
  EXPECT_EQ(CpuWeightOfShares(UINT64_MAX), 10000u);
  for (uint64_t shares = 2, last = 0; shares <= 262144; shares += 97) {
    EXPECT_GE(CpuWeightOfShares(shares), last);
    last = CpuWeightOfShares(shares);
  }
}

TEST(CgroupConversion, BlkioToIo) {
  EXPECT_EQ(IoWeightOfBlkio(10), 1u);
  EXPECT_EQ(IoWeightOfBlkio(500), 4950u);
  EXPECT_EQ(IoWeightOfBlkio(1000), 10000u);
}

TEST(CgroupPlanV1, MemoryAndSwapInTheOrderThatHolds) {
  CgroupView view = Everything();
  view.memsw_limit = 100 << 20;
  EXPECT_EQ(Text(PlanV1(Memory(200 << 20, 200 << 20), view)),
            "memory.memsw.limit_in_bytes=209715200 | memory.limit_in_bytes=209715200");
  EXPECT_EQ(Text(PlanV1(Memory(50 << 20, 50 << 20), view)),
            "memory.limit_in_bytes=52428800 | memory.memsw.limit_in_bytes=52428800");
  EXPECT_EQ(Text(PlanV1(Memory(50 << 20, -1), view)), "memory.memsw.limit_in_bytes=-1 | memory.limit_in_bytes=52428800");
  EXPECT_EQ(Text(PlanV1(Memory(-1, std::nullopt), view)), "memory.memsw.limit_in_bytes=-1 | memory.limit_in_bytes=-1");
  EXPECT_EQ(Text(PlanV1(Memory(50 << 20, std::nullopt), view)), "memory.limit_in_bytes=52428800");
}

TEST(CgroupPlan, ContradictionsAreRefused) {
  EXPECT_EQ(PlanV1(Memory(100, 50), Everything()).error().code, Code::kInvalidArgument);
  EXPECT_EQ(PlanV2(Memory(std::nullopt, 50), Everything()).error().code, Code::kInvalidArgument);
  Resources r = Memory(1 << 20, std::nullopt);
  r.memory->check_before_update = true;
  CgroupView view = Everything();
  view.memory_usage = 2 << 20;
  EXPECT_EQ(PlanV1(r, view).error().code, Code::kFailedPrecondition);
  EXPECT_EQ(PlanV2(r, view).error().code, Code::kFailedPrecondition);
  r = {};
  r.block_io.emplace();
  r.block_io->weight = 5;
  EXPECT_FALSE(PlanV1(r, Everything()));
  EXPECT_FALSE(PlanV2(r, Everything()));
  r = {};
  r.hugepage_limits.push_back({"../../x", 1});
  EXPECT_FALSE(PlanV1(r, Everything()));
  EXPECT_FALSE(PlanV2(r, Everything()));
}

TEST(CgroupPlan, MissingControllers) {
  // Limits that isolation rests on are errors, those that the kubelet sends anyway are not.
  EXPECT_EQ(PlanV1(Memory(1 << 20, 1 << 20), Without("memory")).error().code, Code::kFailedPrecondition);
  EXPECT_EQ(PlanV2(Memory(1 << 20, 1 << 20), Without("memory")).error().code, Code::kFailedPrecondition);
  Resources r;
  r.pids_limit = 5;
  EXPECT_FALSE(PlanV1(r, Without("pids")));
  r.pids_limit = -1;
  EXPECT_TRUE(PlanV1(r, Without("pids")));
  r = {};
  r.hugepage_limits.push_back({"2MB", 0});
  r.network.emplace();
  r.network->class_id = 7;
  auto plan = PlanV1(r, Without("hugetlb"));
  ASSERT_TRUE(plan);
  for (const auto& write : *plan) EXPECT_TRUE(write.optional) << write.file;
  EXPECT_FALSE(PlanV1(r, Everything())->front().optional) << "a page size that the kernel does not have is an error";
}

TEST(CgroupPlanV2, EverythingAtOnce) {
  Resources r = Memory(100 << 20, 150 << 20);
  r.memory->reservation = 10 << 20;
  r.cpu.emplace();
  r.cpu->shares = 1024;
  r.cpu->quota = 50'000;
  r.cpu->period = 100'000;
  r.cpu->cpus = "0-1";
  r.pids_limit = 10'000'000;
  r.block_io.emplace();
  r.block_io->weight = 500;
  r.block_io->read_bps.push_back({8, 0, 1000});
  r.hugepage_limits.push_back({"2MB", 4});
  r.rdma["mlx"].hca_handles = 3;
  r.unified["memory.high"] = "90000000";
  EXPECT_EQ(Text(PlanV2(r, Everything())),
            "cpu.weight=100 | cpu.max=50000 100000 | cpuset.cpus=0-1 | memory.swap.max=52428800 | memory.max=104857600 | "
            "memory.low=10485760 | pids.max=max | io.weight=default 4950 | io.max=8:0 rbps=1000 | hugetlb.2MB.max=4 | "
            "hugetlb.2MB.rsvd.max=4 | rdma.max=mlx hca_handle=3 | memory.high=90000000");
}

TEST(CgroupPlanV2, CpuTime) {
  Resources r;
  r.cpu.emplace();
  r.cpu->period = 50'000;
  CgroupView view = Everything();
  view.cpu_quota = "20000";
  EXPECT_EQ(Text(PlanV2(r, view)), "cpu.max=20000 50000") << "the quota of now stays";
  r.cpu->quota = -1;
  EXPECT_EQ(Text(PlanV2(r, view)), "cpu.max=max 50000");
  r = {};
  r.cpu.emplace();
  r.cpu->idle = 1;
  r.cpu->shares = 512;
  EXPECT_EQ(Text(PlanV2(r, view)), "cpu.idle=1") << "an idle group has no weight";
  r.cpu->idle.reset();
  r.cpu->realtime_runtime = 5;
  EXPECT_FALSE(PlanV2(r, view));
}

TEST(CgroupPlanV2, UnifiedOnlyNamesControllerFiles) {
  for (const char* file : {"cgroup.procs", "cgroup.subtree_control", "../memory.max", "memory", ".x", "a/b.c"}) {
    Resources r;
    r.unified[file] = "1";
    EXPECT_FALSE(PlanV2(r, Everything())) << file;
  }
  Resources r;
  r.unified["memory.high"] = "1";
  EXPECT_FALSE(PlanV2(r, Without("memory")));
  EXPECT_FALSE(PlanV1(r, Everything()));
}

TEST(CgroupPlanV1, Devices) {
  auto text = [](Resources::DeviceRule rule) { return Text(PlanV1Devices({rule})); };
  EXPECT_EQ(text({false, 'a', std::nullopt, std::nullopt, ""}), "devices.deny=a *:* rwm");
  EXPECT_EQ(text({true, 'c', 1, 3, "rw"}), "devices.allow=c 1:3 rw");
  EXPECT_EQ(text({true, 'c', 136, -1, "rwm"}), "devices.allow=c 136:* rwm");
  EXPECT_EQ(text({true, 'a', 1, 3, "r"}), "devices.allow=b 1:3 r | devices.allow=c 1:3 r");
  EXPECT_FALSE(PlanV1Devices({{true, 'p', 1, 1, "r"}}));
  EXPECT_FALSE(PlanV1Devices({{true, 'c', 1, 1, "rx"}}));
}

}  // namespace
}  // namespace caisson::oci

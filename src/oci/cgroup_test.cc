// SPDX-License-Identifier: Apache-2.0
//
// What of cgroups needs no kernel: v2 on a directory that looks like one, the readers of statistics, device programs.
#include "oci/cgroup.h"

#include <linux/bpf.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "oci/cgroup_device_bpf.h"
#include "oci/cgroup_dir.h"
#include "oci/cgroup_stats.h"
#include "oci/cgroup_v2.h"

namespace caisson::oci {
namespace {

namespace fs = std::filesystem;

class TreeTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "caisson-cgroup-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }
  void Put(const std::string& file, const std::string& text) {
    fs::create_directories(fs::path(root_ + "/" + file).parent_path());
    std::ofstream(root_ + "/" + file) << text;
  }
  // A file keeps what follows the written text, unlike a kernel's; only the start is compared.
  std::string Start(const std::string& file, size_t size) { return ReadCgroupFile(root_ + "/" + file)->substr(0, size); }
  std::string root_;
};

TEST_F(TreeTest, V2AppliesAndReadsAGroup) {
  for (const char* file : {"cgroup.procs", "cpu.weight", "memory.swap.max", "pids.max"}) Put(std::string("g/") + file, "");
  Put("g/cgroup.controllers", "cpuset cpu memory pids\n");
  Put("g/cpu.max", "max 100000\n");
  Put("g/memory.max", "");
  CgroupV2 group(root_, "g", nullptr);
  ASSERT_TRUE(group.Find());
  Resources r;
  r.cpu.emplace();
  r.cpu->shares = 2;
  r.cpu->period = 50'000;
  r.memory.emplace();
  r.memory->limit = 1 << 20;
  r.memory->swap = 3 << 20;
  r.pids_limit = 9;
  auto applied = group.Apply(r);
  ASSERT_TRUE(applied) << applied.error().message;
  EXPECT_EQ(Start("g/cpu.weight", 9), "1");
  EXPECT_EQ(Start("g/cpu.max", 9), "max 50000");
  EXPECT_EQ(Start("g/memory.max", 9), "1048576");
  EXPECT_EQ(Start("g/memory.swap.max", 9), "2097152");
  EXPECT_EQ(Start("g/pids.max", 9), "9");
  r.unified["memory.high"] = "5";
  auto missing = group.Apply(r);
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message.find("memory.high"), std::string::npos);
}

TEST_F(TreeTest, V2MakesNothingBelowAGroupWithProcesses) {
  Put("cgroup.controllers", "memory");
  Put("cgroup.subtree_control", "memory");
  CgroupV2 group(root_, "a/b", nullptr);
  // Plain directories have no cgroup.* files of their own, so what is made fails to be set up: all of it goes again.
  EXPECT_FALSE(group.Make(CgroupOptions{}));
  EXPECT_FALSE(fs::exists(root_ + "/a"));
  CgroupV2 absent(root_, "a/b", nullptr);
  EXPECT_EQ(absent.Find().error().code, Code::kNotFound);
}

TEST_F(TreeTest, StatsV2) {
  Put("cpu.stat", "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_periods 4\nnr_throttled 2\nthrottled_usec 5\n");
  Put("memory.current", "5000\n");
  Put("memory.max", "max\n");
  Put("memory.stat", "anon 1000\nfile 2000\ninactive_file 1500\npgfault 9\npgmajfault 1\nfile_mapped 4\n");
  Put("memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n");
  Put("memory.swap.current", "11\n");
  Put("memory.pressure", "some avg10=1.25 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n");
  Put("pids.current", "3\n");
  Put("pids.max", "max\n");
  Put("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n252:1\n");
  Put("hugetlb.2MB.current", "0\n");
  Put("hugetlb.2MB.max", "4\n");
  Put("hugetlb.2MB.rsvd.current", "0\n");
  auto stats = ReadStatsV2(root_, StatsPart::kAll);
  ASSERT_TRUE(stats) << stats.error().message;
  EXPECT_EQ(stats->cpu.usage_nanos, 10'000u);
  EXPECT_EQ(stats->cpu.throttled_nanos, 5'000u);
  EXPECT_EQ(stats->memory.working_set, 3500u);
  EXPECT_EQ(stats->memory.limit, UINT64_MAX);
  EXPECT_EQ(stats->memory.oom_kills, 1u);
  EXPECT_EQ(stats->memory.swap_usage, 11u);
  EXPECT_FALSE(stats->memory.swap_limit);
  ASSERT_TRUE(stats->memory.psi);
  EXPECT_EQ(stats->memory.psi->some.avg10, 125u);
  EXPECT_EQ(stats->memory.psi->full.total_usec, 5u);
  EXPECT_FALSE(stats->cpu.psi);
  EXPECT_EQ(stats->pids.limit, 0u);
  ASSERT_EQ(stats->io.size(), 2u);
  EXPECT_EQ(stats->io[0].writes, 4u);
  ASSERT_EQ(stats->hugetlb.size(), 1u);
  auto usage = ReadStatsV2(root_, StatsPart::kUsage);
  ASSERT_TRUE(usage) << usage.error().message;
  EXPECT_EQ(usage->cpu.usage_nanos, 10'000u);
  EXPECT_EQ(usage->memory.working_set, 3500u);
  EXPECT_EQ(usage->pids.current, 3u);
  EXPECT_TRUE(usage->memory.psi);
  EXPECT_TRUE(usage->io.empty());
  Put("memory.current", "rubbish\n");
  EXPECT_EQ(ReadStatsV2(root_, StatsPart::kAll).error().code, Code::kDataLoss);
}

TEST_F(TreeTest, StatsV1WithHalfTheControllers) {
  Put("memory.usage_in_bytes", "100\n");
  Put("memory.limit_in_bytes", "9223372036854771712\n");
  V1Dirs dirs;
  dirs.memory = root_;
  auto stats = ReadStatsV1(dirs, StatsPart::kAll);
  ASSERT_TRUE(stats) << stats.error().message;
  EXPECT_EQ(stats->memory.limit, UINT64_MAX);
  EXPECT_EQ(stats->memory.usage, 100u);
  std::vector<CgroupStats::IoDevice> io;
  ParseBlkio("8:0 Read 5\n8:0 Write 6\n8:0 Total 11\nTotal 11\n", false, &io);
  ParseBlkio("8:0 Read 1\n", true, &io);
  ASSERT_EQ(io.size(), 1u);
  EXPECT_EQ(io[0].read_bytes, 5u);
  EXPECT_EQ(io[0].reads, 1u);
}

TEST_F(TreeTest, PidFiles) {
  Put("cgroup.procs", "12\n0\n7\n");
  Put("a/b/cgroup.procs", "7\n99\n");
  EXPECT_EQ(*CgroupPids(root_), (std::vector<int>{7, 12, 99}));
  EXPECT_FALSE(*CgroupEmpty(root_)) << "a process of another pid namespace counts";
  Put("cgroup.procs", "99999999999999\n");
  EXPECT_FALSE(CgroupPids(root_));
  EXPECT_TRUE(CgroupPids(root_ + "/none")->empty());
}

// The few eBPF instructions that device programs use, run as the kernel would.
int Verdict(const std::vector<BpfInstruction>& program, uint32_t type, uint32_t access, uint32_t major, uint32_t minor) {
  const uint32_t context[3] = {access << 16 | type, major, minor};
  uint64_t r[11] = {};
  for (size_t at = 0, steps = 0; at < program.size() && steps < 100'000; ++at, ++steps) {
    bpf_insn i;
    memcpy(&i, &program[at], sizeof i);
    uint64_t& dst = r[i.dst_reg];
    switch (i.code) {
      case BPF_LDX | BPF_MEM | BPF_W: dst = context[i.off / 4]; break;
      case BPF_ALU | BPF_MOV | BPF_X: dst = static_cast<uint32_t>(r[i.src_reg]); break;
      case BPF_ALU | BPF_MOV | BPF_K: dst = static_cast<uint32_t>(i.imm); break;
      case BPF_ALU | BPF_AND | BPF_K: dst = static_cast<uint32_t>(dst) & static_cast<uint32_t>(i.imm); break;
      case BPF_ALU | BPF_RSH | BPF_K: dst = static_cast<uint32_t>(dst) >> i.imm; break;
      case BPF_JMP | BPF_JNE | BPF_K: at += dst != static_cast<uint64_t>(int64_t{i.imm}) ? static_cast<size_t>(i.off) : 0; break;
      case BPF_JMP | BPF_JEQ | BPF_K: at += dst == static_cast<uint64_t>(int64_t{i.imm}) ? static_cast<size_t>(i.off) : 0; break;
      case BPF_JMP | BPF_EXIT: return static_cast<int>(r[0]);
      default: return -1;
    }
  }
  return -2;
}

TEST(DeviceProgram, LaterRulesWinBitByBit) {
  constexpr uint32_t kBlock = BPF_DEVCG_DEV_BLOCK, kChar = BPF_DEVCG_DEV_CHAR;
  constexpr uint32_t kMknod = BPF_DEVCG_ACC_MKNOD, kRead = BPF_DEVCG_ACC_READ, kWrite = BPF_DEVCG_ACC_WRITE;
  auto program = CompileDeviceRules({{true, 'a', std::nullopt, std::nullopt, ""},  // hidden by the next
                                     {false, 'a', std::nullopt, std::nullopt, "rwm"},
                                     {true, 'c', 1, 3, "r"},
                                     {true, 'c', 1, 3, "w"},
                                     {true, 'c', 136, -1, "rwm"},
                                     {false, 'c', 136, 5, "w"},
                                     {true, 'b', std::nullopt, std::nullopt, "m"}});
  ASSERT_TRUE(program) << program.error().message;
  EXPECT_EQ(Verdict(*program, kChar, kRead | kWrite, 1, 3), 1) << "two rules together";
  EXPECT_EQ(Verdict(*program, kChar, kMknod, 1, 3), 0);
  EXPECT_EQ(Verdict(*program, kChar, kRead, 1, 4), 0);
  EXPECT_EQ(Verdict(*program, kBlock, kRead, 1, 3), 0);
  EXPECT_EQ(Verdict(*program, kChar, kRead | kWrite | kMknod, 136, 9), 1);
  EXPECT_EQ(Verdict(*program, kChar, kRead, 136, 5), 1);
  EXPECT_EQ(Verdict(*program, kChar, kRead | kWrite, 136, 5), 0);
  EXPECT_EQ(Verdict(*program, kBlock, kMknod, 8, 0), 1);
  EXPECT_EQ(Verdict(*program, kBlock, kMknod | kRead, 8, 0), 0);
  EXPECT_EQ(Verdict(*CompileDeviceRules({}), kChar, kRead, 1, 3), 0) << "what no rule names is denied";
  EXPECT_EQ(Verdict(*CompileDeviceRules({{true, 'a', std::nullopt, std::nullopt, ""}}), kBlock, kWrite, 8, 1), 1);
  EXPECT_FALSE(CompileDeviceRules({{true, 'x', 1, 1, "r"}}));
  EXPECT_FALSE(CompileDeviceRules({{true, 'c', 1, 1, "q"}}));
}

}  // namespace
}  // namespace caisson::oci

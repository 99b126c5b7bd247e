// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "cli/host_checks.h"
#include "cli/log_reader.h"
#include "cli/output.h"
#include "cli/timeline_view.h"

namespace caisson::cli {
namespace {

TEST(Output, Formats) {
  EXPECT_EQ(FormatBytes(512), "512 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatDuration(1'500'000), "1.50 ms");
  EXPECT_EQ(FormatDuration(250'000'000), "250 ms");
  EXPECT_EQ(FormatDuration(90'000'000'000), "1 min");
  EXPECT_EQ(FormatAge(0, 5), "-");
  EXPECT_EQ(ShortId("sha256:0123456789abcdef"), "0123456789abc");
  EXPECT_EQ(FormatTable({{"A", "B"}, {"long", "x\x1b[2J"}}), "A     B\nlong  x?[2J\n");
}

class LogReaderTest : public testing::Test {
 protected:
  LogReaderTest() {
    char pattern[] = "/tmp/caisson-cli-XXXXXX";
    folder_ = mkdtemp(pattern);
    path_ = folder_ + "/log";
  }
  ~LogReaderTest() override { std::filesystem::remove_all(folder_); }
  void Append(const std::string& text) { std::ofstream(path_, std::ios::app) << text; }
  std::string Read(LogReader& reader) {
    std::string out;
    auto done = reader.ReadNew([&](bool is_stderr, std::string_view text) { out += (is_stderr ? "!" : "") + std::string(text); });
    return done ? out : done.error().message;
  }
  std::string folder_, path_;
};

TEST_F(LogReaderTest, JoinsPartsAndFollowsRotation) {
  LogReader reader(path_);
  EXPECT_EQ(Read(reader), "");
  Append("2026-01-01T00:00:00.000000000Z stdout P one\n2026-01-01T00:00:00.000000000Z stdout F two\n2026-01-01T00:00:00.0Z std");
  EXPECT_EQ(Read(reader), "onetwo\n");
  Append("err F three\n");
  std::filesystem::rename(path_, path_ + ".1");
  Append("2026-01-01T00:00:00.0Z stdout F four\n");
  EXPECT_EQ(Read(reader), "!three\nfour\n");
}

TEST_F(LogReaderTest, Tail) {
  for (int i = 0; i < 5000; ++i) Append("2026-01-01T00:00:00.000000000Z stdout F line " + std::to_string(i) + "\n");
  LogReader reader(path_);
  reader.SetTail(2);
  EXPECT_EQ(Read(reader), "line 4998\nline 4999\n");
  LogReader none(path_);
  none.SetTail(0);
  EXPECT_EQ(Read(none), "");
  LogReader all(path_);
  all.SetTail(100000);
  EXPECT_TRUE(Read(all).starts_with("line 0\n"));
}

TEST_F(LogReaderTest, SkipsWhatIsNotOfTheFormat) {
  Append("garbage\nx y z\n2026 stdin F a\n2026 stdout X a\n2026 stdout F ok\n");
  LogReader reader(path_);
  EXPECT_EQ(Read(reader), "ok\n");
}

TEST(Timeline, TraceForPerfetto) {
  std::vector<TimelineStep> steps = {{"app", "start", "task", 5'000'500, 6'000'000, "boom"}, {"pod", "run", "netns", 1'000'000, 2'000'000, ""},
                                     {"pod", "run", "cni", 2'000'000, 4'000'000, ""}};
  auto trace = ParseJson(TraceTimeline(steps, "web"));
  ASSERT_TRUE(trace) << trace.error().message;
  std::vector<std::string> seen;
  for (const auto& event : (*trace)["traceEvents"]) {
    if (event["ph"] == "M") {
      seen.push_back(event["args"]["name"]);
      continue;
    }
    seen.push_back(fmt::format("{} {} {} {}", event["tid"].get<int>(), event["name"].get<std::string>(), event["ts"].get<double>(),
                               event["dur"].get<double>()));
  }
  EXPECT_THAT(seen, testing::ElementsAre("web", "pod", "1 run 1000 3000", "1 netns 1000 1000", "1 cni 2000 2000", "app", "2 start 5000.5 999.5",
                                         "2 task 5000.5 999.5"));
  EXPECT_EQ((*trace)["traceEvents"].back()["args"]["error"], "boom");
}

TEST(Timeline, TextAndPicture) {
  std::vector<TimelineStep> steps = {{"pod", "run", "cni<add>", 1'000'000, 16'000'000, ""}, {"pod", "run", "netns", 0, 1'000'000, "boom"}};
  std::string text = FormatTimeline(steps);
  EXPECT_NE(text.find("pod: run  16 ms\n  netns"), std::string::npos) << text;
  EXPECT_NE(text.find("failed: boom"), std::string::npos);
  std::string svg = DrawTimeline(steps, "a&b");
  EXPECT_NE(svg.find("cni&lt;add&gt;"), std::string::npos);
  EXPECT_NE(svg.find("a&amp;b"), std::string::npos);
}

TEST(HostChecks, KernelVersions) {
  EXPECT_TRUE(KernelAtLeast("5.10.0-1", 5, 10));
  EXPECT_TRUE(KernelAtLeast("6.1", 5, 10));
  EXPECT_FALSE(KernelAtLeast("5.9.16", 5, 10));
  EXPECT_FALSE(KernelAtLeast("", 5, 10));
}

TEST(HostChecks, AnEmptyHostFailsWithRemedies) {
  char pattern[] = "/tmp/caisson-cli-XXXXXX";
  std::string root = mkdtemp(pattern);
  int failures = 0;
  for (const auto& check : CheckHost(root, "/etc/cni/net.d")) {
    if (check.verdict != Verdict::kOk) {
      EXPECT_FALSE(check.remedy.empty()) << check.name;
    }
    failures += check.verdict == Verdict::kFail;
  }
  EXPECT_GE(failures, 6);
  std::filesystem::create_directories(root + "/proc/self");
  std::ofstream(root + "/proc/self/mounts") << "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
  std::filesystem::create_directories(root + "/sys/fs/cgroup");
  std::ofstream(root + "/sys/fs/cgroup/cgroup.controllers") << "cpuset cpu io memory pids\n";
  std::string facts;
  for (const auto& check : CheckHost(root, "/none")) facts += check.name + "=" + check.fact + ";";
  EXPECT_NE(facts.find("cgroups=v2;cgroup controllers=missing: hugetlb;"), std::string::npos) << facts;
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace caisson::cli

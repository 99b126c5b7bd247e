// SPDX-License-Identifier: Apache-2.0
#include "task/log_file.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "base/strings.h"

namespace caisson::task {
namespace {

class LogFileTest : public testing::Test {
 protected:
  LogFileTest() {
    char pattern[] = "/tmp/caisson-log-XXXXXX";
    folder_ = mkdtemp(pattern);
    path_ = folder_ + "/0.log";
  }
  ~LogFileTest() override { std::filesystem::remove_all(folder_); }
  // The lines without their times.
  std::string Content(const std::string& path) {
    std::ifstream file(path);
    std::string text, line;
    while (std::getline(file, line)) text += line.substr(line.find(' ') + 1) + "\n";
    return text;
  }
  std::unique_ptr<sys::EventLoop> loop_ = sys::EventLoop::Create().value();
  Scratch scratch_{loop_.get()};
  std::string folder_, path_;
};

TEST_F(LogFileTest, WholeLinesPartsAndEnds) {
  auto log = LogFile::Open(path_, 8, &scratch_).value();
  log->Write(LogFile::kStdout, "one\ntw");
  log->Write(LogFile::kStderr, "err\n");
  log->Write(LogFile::kStdout, "o\n\n12345678\n123456789abcdef01\n");
  log->Write(LogFile::kStdout, "tail");
  log->End(LogFile::kStdout);
  log->End(LogFile::kStderr);
  EXPECT_EQ(Content(path_), "stdout F one\nstderr F err\nstdout F two\nstdout F \nstdout F 12345678\nstdout P 12345678\nstdout P 9abcdef0\nstdout F 1\nstdout P tail\n");
}

TEST_F(LogFileTest, AnyCutGivesTheSameText) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += std::string(static_cast<size_t>(i % 23), 'a' + i % 26) + "\n";
  for (size_t step : {1, 2, 3, 7, 8, 9, 64, 5000}) {
    std::string path = path_ + std::to_string(step);
    auto log = LogFile::Open(path, 8, &scratch_).value();
    for (size_t at = 0; at < text.size(); at += step) log->Write(LogFile::kStdout, std::string_view(text).substr(at, step));
    log->End(LogFile::kStdout);
    std::string joined;
    std::istringstream lines(Content(path));
    for (std::string line; std::getline(lines, line);) {
      ASSERT_LE(line.size(), 9u + 8u);
      joined += line.substr(9) + (line[7] == 'F' ? "\n" : "");
    }
    EXPECT_EQ(joined, text) << step;
  }
}

TEST_F(LogFileTest, ReopenWritesToTheNewFile) {
  auto log = LogFile::Open(path_, 0, &scratch_).value();
  log->Write(LogFile::kStdout, "old\n");
  std::filesystem::rename(path_, path_ + ".1");
  log->Write(LogFile::kStdout, "still old\nhalf");
  ASSERT_TRUE(log->Reopen());
  log->Write(LogFile::kStdout, " new\n");
  EXPECT_EQ(Content(path_ + ".1"), "stdout F old\nstdout F still old\n");
  EXPECT_EQ(Content(path_), "stdout F half new\n");
}

TEST_F(LogFileTest, RefusesLinksFifosAndDevices) {
  std::filesystem::create_symlink("/tmp/caisson-log-victim", path_);
  EXPECT_FALSE(LogFile::Open(path_, 0, &scratch_).has_value());
  EXPECT_FALSE(std::filesystem::exists("/tmp/caisson-log-victim"));
  std::filesystem::remove(path_);
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_FALSE(LogFile::Open(path_, 0, &scratch_).has_value());
  EXPECT_FALSE(LogFile::Open("/dev/null", 0, &scratch_).has_value());
  EXPECT_FALSE(LogFile::Open(folder_ + "/no/such", 0, &scratch_).has_value());
}

TEST_F(LogFileTest, RefusesALinkedFolderAndDotDot) {
  std::filesystem::create_directory(folder_ + "/victim");
  std::filesystem::create_directory_symlink(folder_ + "/victim", folder_ + "/ctr");
  EXPECT_EQ(LogFile::Open(folder_ + "/ctr/0.log", 0, &scratch_).error().code, Code::kInvalidArgument);
  EXPECT_TRUE(std::filesystem::is_empty(folder_ + "/victim"));
  EXPECT_EQ(LogFile::Open(folder_ + "/x/../0.log", 0, &scratch_).error().code, Code::kInvalidArgument);
  EXPECT_EQ(LogFile::Open("relative/0.log", 0, &scratch_).error().code, Code::kInvalidArgument);
  EXPECT_EQ(LogFile::Open(folder_ + "/", 0, &scratch_).error().code, Code::kInvalidArgument);
  EXPECT_FALSE(LogFile::Open(folder_, 0, &scratch_).has_value());
  EXPECT_TRUE(LogFile::Open(folder_ + "/victim/0.log", 0, &scratch_).has_value());
}

TEST_F(LogFileTest, AppendsToWhatIsThere) {
  for (const char* line : {"one\n", "two\n"}) LogFile::Open(path_, 0, &scratch_).value()->Write(LogFile::kStdout, line);
  EXPECT_EQ(Content(path_), "stdout F one\nstdout F two\n");
}

TEST_F(LogFileTest, ADeletedFileIsNoError) {
  auto log = LogFile::Open(path_, 0, &scratch_).value();
  std::filesystem::remove(path_);
  log->Write(LogFile::kStdout, "nowhere\n");
  ASSERT_TRUE(log->Reopen());
  log->Write(LogFile::kStdout, "here\n");
  EXPECT_EQ(Content(path_), "stdout F here\n");
  EXPECT_EQ(log->dropped_bytes(), 0u);
}

TEST_F(LogFileTest, MuchAtOnce) {
  auto log = LogFile::Open(path_, 0, &scratch_).value();
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += "\n";
  log->Write(LogFile::kStdout, text);
  EXPECT_EQ(std::filesystem::file_size(path_), 200'000u * 41);
}

// RLIMIT_FSIZE stands for a full disk: write(2) fails (EFBIG) after a part of a line.
TEST_F(LogFileTest, WhatCannotBeWrittenIsCountedAndSaid) {
  signal(SIGXFSZ, SIG_IGN);
  auto log = LogFile::Open(path_, 0, &scratch_).value();
  log->Write(LogFile::kStdout, "first\n");
  rlimit before{}, small{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  small = before;
  small.rlim_cur = std::filesystem::file_size(path_) + 20;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  log->Write(LogFile::kStdout, "lost 1\nlost 2\n");
  log->Write(LogFile::kStdout, "lost 3\n");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(log->dropped_lines(), 3u);
  log->Write(LogFile::kStdout, "after\n");
  std::string content = Content(path_);
  EXPECT_TRUE(content.starts_with("stdout F first\n")) << content;
  EXPECT_TRUE(content.ends_with("log lines are missing here: File too large]\nstdout F after\n")) << content;
  EXPECT_NE(content.find("bytes in 3 log lines"), std::string::npos) << content;
  EXPECT_EQ(content.find("lost"), std::string::npos) << content;
}

}  // namespace
}  // namespace caisson::task

// SPDX-License-Identifier: Apache-2.0
#include "task/log_file.h"

#include <sys/stat.h>
#include <unistd.h>

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
  std::string folder_, path_;
};

TEST_F(LogFileTest, WholeLinesPartsAndEnds) {
  auto log = LogFile::Open(path_, 8).value();
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
    auto log = LogFile::Open(path, 8).value();
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
  auto log = LogFile::Open(path_, 0).value();
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
  EXPECT_FALSE(LogFile::Open(path_, 0).has_value());
  EXPECT_FALSE(std::filesystem::exists("/tmp/caisson-log-victim"));
  std::filesystem::remove(path_);
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_FALSE(LogFile::Open(path_, 0).has_value());
  EXPECT_FALSE(LogFile::Open("/dev/null", 0).has_value());
  EXPECT_FALSE(LogFile::Open(folder_ + "/no/such", 0).has_value());
}

}  // namespace
}  // namespace caisson::task

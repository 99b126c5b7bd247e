// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "sys/path.h"
#include "sys/sealed_program.h"

namespace caisson::sys {
namespace {

class SealedProgram : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "mounts need root";
    std::string pattern = ::testing::TempDir() + "/sealed.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    std::filesystem::copy_file("/bin/cat", folder_ + "/cat");
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  std::string folder_;
};

TEST_F(SealedProgram, RunsButCannotBeWritten) {
  auto program = OpenSealedProgram(folder_ + "/cat");
  ASSERT_TRUE(program) << program.error().message;
  int in[2];
  ASSERT_EQ(pipe2(in, O_CLOEXEC), 0);
  pid_t pid = fork();
  if (pid == 0) {
    dup2(in[0], 0);
    const char* argv[] = {"cat", nullptr};
    execv(FdPath(program->get()).c_str(), const_cast<char**>(argv));
    _exit(99);
  }
  // It has run execve when its end of the pipe's close-on-exec has worked: wait for the exe to be the copy.
  std::string exe = "/proc/" + std::to_string(pid) + "/exe";
  struct stat ours {
  }, its{};
  ASSERT_EQ(stat((folder_ + "/cat").c_str(), &ours), 0);
  while (stat(exe.c_str(), &its) == 0 && its.st_ino != ours.st_ino) sched_yield();
  program->Reset();  // the mount lives on by the process alone
  UniqueFd handle(open(exe.c_str(), O_PATH | O_CLOEXEC));
  ASSERT_TRUE(handle);
  mount_attr writable{};
  writable.attr_clr = MOUNT_ATTR_RDONLY;
  EXPECT_NE(syscall(SYS_mount_setattr, handle.get(), "", AT_EMPTY_PATH, &writable, sizeof writable), 0);
  EXPECT_NE(mount(nullptr, FdPath(handle.get()).c_str(), nullptr, MS_REMOUNT | MS_BIND, nullptr), 0);
  close(in[1]);
  close(in[0]);
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  // The program runs no more, so only the mount refuses.
  UniqueFd write(open(FdPath(handle.get()).c_str(), O_WRONLY | O_CLOEXEC));
  EXPECT_FALSE(write);
  EXPECT_EQ(errno, EROFS);
  UniqueFd direct(open((folder_ + "/cat").c_str(), O_WRONLY | O_CLOEXEC));
  EXPECT_TRUE(direct) << "an ordinary upgrade in place goes on working";
}

TEST_F(SealedProgram, MissingProgramIsNamed) {
  auto program = OpenSealedProgram(folder_ + "/nothing");
  ASSERT_FALSE(program);
  EXPECT_NE(program.error().message.find("/nothing'"), std::string::npos) << program.error().message;
}

TEST_F(SealedProgram, WeDoNot) { EXPECT_FALSE(RunsSealed()); }

}  // namespace
}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
//
// For tests only: network namespaces that live as long as a function runs in them, and programs run there.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/strings.h"
#include "base/unique_fd.h"

namespace caisson::sys {

// Runs `body` on a thread in a network namespace of its own, which goes with the thread and what it has opened.
inline void InNewNetns(const std::function<void()>& body) {
  std::thread([&] {
    ASSERT_EQ(unshare(CLONE_NEWNET), 0);
    body();
  }).join();
}

// Runs a program, words separated by spaces, in the calling thread's namespace. Returns its stdout.
inline std::string RunTool(const std::string& line) {
  std::vector<std::string> words;
  for (std::string_view word : Split(line, ' ')) words.emplace_back(word);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {};
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDOUT_FILENO);
  pid_t pid = 0;
  int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  write_end.Reset();
  std::string out;
  char buffer[4096];
  ssize_t got = 0;
  while (error == 0 && (got = read(read_end.get(), buffer, sizeof buffer)) > 0) out.append(buffer, static_cast<size_t>(got));
  int status = -1;
  if (error == 0) waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0) << line;
  return out;
}

}  // namespace caisson::sys

// SPDX-License-Identifier: Apache-2.0
#include "sys/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>

#include "base/scope_exit.h"
#include "base/unique_fd.h"

namespace caisson::sys {
namespace {

constexpr int kFirstFd = 3;

std::vector<char*> PointersTo(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

Result<int> SpawnDetached(const SpawnRequest& request) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  ScopeExit destroy([&] {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  });
  for (int fd : {0, 1, 2}) posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
  // Out of the way of the numbers that they are to have.
  std::vector<UniqueFd> copies;
  int next = kFirstFd;
  for (int fd : request.fds) {
    copies.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, kFirstFd + static_cast<int>(request.fds.size())));
    if (!copies.back()) return ErrnoError("duplicate a descriptor for '{}'", request.program);
    posix_spawn_file_actions_adddup2(&actions, copies.back().get(), next++);
  }
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  int pid = -1;
  auto argv = PointersTo(request.argv), environment = PointersTo(request.environment);
  int error = posix_spawn(&pid, request.program.c_str(), &actions, &attributes, argv.data(), environment.data());
  if (error != 0) {
    errno = error;
    return ErrnoError("start '{}'", request.program);
  }
  return pid;
}

}  // namespace caisson::sys

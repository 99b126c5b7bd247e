// SPDX-License-Identifier: Apache-2.0
#include "task/process_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>

#include "base/strings.h"
#include "base/unique_fd.h"
#include "sys/path.h"
#include "sys/proc_text.h"

namespace caisson::task {
namespace {

constexpr int kRounds = 8;
constexpr size_t kMaxFds = 4096;  // looked at of one process

struct Stat {
  int parent = 0, session = 0;
};

// proc_pid_stat(5): "pid (comm) state ppid pgrp session …".
bool ReadStat(int pid, Stat* stat) {
  auto text = sys::ReadFile(fmt::format("/proc/{}/stat", pid), 4096);
  if (!text) return false;
  auto fields = sys::StatFields(*text);
  if (fields.size() < 4) return false;
  auto parent = ParseInt64(fields[1]), session = ParseInt64(fields[3]);
  if (!parent || !session) return false;
  *stat = {static_cast<int>(*parent), static_cast<int>(*session)};
  return true;
}

bool HoldsPipe(int pid, const std::vector<ino_t>& pipes) {
  if (pipes.empty()) return false;
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(fmt::format("/proc/{}/fd", pid).c_str()), closedir);
  if (!dir) return false;
  size_t seen = 0;
  for (dirent* entry; (entry = readdir(dir.get())) != nullptr && seen < kMaxFds; ++seen) {
    struct stat info {};
    // Of the descriptor's file itself: the kernel follows the magic link (proc(5)).
    if (fstatat(dirfd(dir.get()), entry->d_name, &info, 0) != 0 || !S_ISFIFO(info.st_mode)) continue;
    if (std::find(pipes.begin(), pipes.end(), info.st_ino) != pipes.end()) return true;
  }
  return false;
}

class Tree {
 public:
  Tree(int root, int init, const std::vector<ino_t>& pipes) : root_(root), init_(init), pipes_(pipes) {}

  // Finds more among `pids` and stops them; false when there was nothing new.
  bool Grow(const std::vector<int>& pids) {
    bool grew = false, again = true;
    while (again) {
      again = false;
      for (int pid : pids) {
        if (pid != init_ && !found_.contains(pid) && IsOurs(pid) && Take(pid)) grew = again = true;
      }
    }
    return grew;
  }

  int Kill() {
    for (auto& [pid, pidfd] : found_) Send(pidfd.get(), SIGKILL);
    return static_cast<int>(found_.size());
  }

 private:
  bool IsOurs(int pid) {
    Stat stat;
    if (!ReadStat(pid, &stat)) return false;
    return pid == root_ || stat.session == root_ || found_.contains(stat.parent) || HoldsPipe(pid, pipes_);
  }

  bool Take(int pid) {
    UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    // Asked again now that the number cannot be another process's.
    if (!pidfd || !IsOurs(pid)) return false;
    Send(pidfd.get(), SIGSTOP);
    found_.emplace(pid, std::move(pidfd));
    return true;
  }

  static void Send(int pidfd, int signal) { (void)syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0); }

  const int root_, init_;
  const std::vector<ino_t>& pipes_;
  std::map<int, UniqueFd> found_;
};

}  // namespace

int KillTree(int root, int init, const std::vector<ino_t>& pipes,
             const std::function<Result<std::vector<int>>()>& candidates) {
  Tree tree(root == 0 ? -1 : root, init, pipes);
  for (int round = 0; round < kRounds; ++round) {
    auto pids = candidates();
    if (root > 0) {
      if (!pids) pids = std::vector<int>();
      pids->push_back(root);
    }
    if (!pids || !tree.Grow(*pids)) break;
  }
  return tree.Kill();
}

}  // namespace caisson::task

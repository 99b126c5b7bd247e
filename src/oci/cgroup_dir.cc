// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "base/limits.h"
#include "base/scope_exit.h"
#include "base/strings.h"

namespace caisson::oci {
namespace {

// The groups directly below `dir`. The link count of a kernfs directory is 2 + its subdirectories (kernfs_refresh_inode),
// which saves opening the many that have none.
Result<std::vector<std::string>> Children(const std::string& dir) {
  std::vector<std::string> names;
  struct stat st{};
  if (stat(dir.c_str(), &st) != 0) {
    if (errno == ENOENT) return names;
    return ErrnoError("stat '{}'", dir);
  }
  if (st.st_nlink == 2) return names;
  DIR* opened = opendir(dir.c_str());
  if (opened == nullptr) {
    if (errno == ENOENT) return names;
    return ErrnoError("open '{}'", dir);
  }
  std::unique_ptr<DIR, int (*)(DIR*)> stream(opened, closedir);
  while (dirent* entry = readdir(opened)) {
    if (entry->d_type != DT_DIR) continue;
    std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.push_back(dir + "/" + entry->d_name);
  }
  return names;
}

// Calls `visit` for `dir` and each group below it, children before parents.
template <class Visit>
Result<> Walk(const std::string& dir, int depth, Visit& visit) {
  if (depth > limits::kCgroupDepth) {
    return MakeError(Code::kResourceExhausted, "cgroup '{}' is nested deeper than {}", dir, limits::kCgroupDepth);
  }
  for (const std::string& child : TRY(Children(dir))) TRY(Walk(child, depth + 1, visit));
  return visit(dir);
}

Result<> AppendPids(const std::string& dir, bool keep_unseen, std::vector<int>* pids) {
  UniqueFd fd(open((dir + "/cgroup.procs").c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOENT || errno == ENODEV) return {};
    return ErrnoError("open '{}/cgroup.procs'", dir);
  }
  char buffer[4096];
  int pid = -1;
  for (;;) {
    ssize_t n = read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    // ENODEV: removed since it was opened. EOPNOTSUPP: a threaded group, whose processes its domain lists.
    if (n < 0 && (errno == ENODEV || errno == EOPNOTSUPP)) break;
    if (n < 0) return ErrnoError("read '{}/cgroup.procs'", dir);
    if (n == 0) break;
    for (ssize_t i = 0; i < n; ++i) {
      if (buffer[i] >= '0' && buffer[i] <= '9') {
        if (pid > 200'000'000) return MakeError(Code::kDataLoss, "'{}/cgroup.procs' holds no pids", dir);
        pid = (pid < 0 ? 0 : pid) * 10 + (buffer[i] - '0');
      } else if (pid >= 0) {
        // A process that our pid namespace does not see is listed as 0.
        if (pid > 0 || keep_unseen) pids->push_back(pid);
        pid = -1;
      }
    }
    if (pids->size() > limits::kCgroupPids) {
      return MakeError(Code::kResourceExhausted, "'{}' lists more than {} processes", dir, limits::kCgroupPids);
    }
  }
  return {};
}

}  // namespace

void SleepMicros(int64_t micros) {
  timespec pause{static_cast<time_t>(micros / 1'000'000), static_cast<long>(micros % 1'000'000) * 1000};
  nanosleep(&pause, nullptr);
}

Result<std::string> ReadCgroupFile(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return ErrnoError("open '{}'", path);
  std::string text;
  for (;;) {
    size_t have = text.size();
    if (have > limits::kCgroupFileBytes) {
      return MakeError(Code::kResourceExhausted, "'{}' is larger than {} bytes", path, limits::kCgroupFileBytes);
    }
    text.resize(have + 4096);
    ssize_t n = read(fd.get(), text.data() + have, 4096);
    int err = errno;
    text.resize(have + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0 && err != EINTR) return SysError(err, fmt::format("read '{}'", path));
    if (n == 0) break;
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

Result<uint64_t> ReadCgroupNumber(const std::string& path) {
  std::string text = TRY(ReadCgroupFile(path));
  if (text == "max" || text == "-1") return UINT64_MAX;
  auto number = ParseUint64(text);
  if (!number) return MakeError(Code::kDataLoss, "'{}' holds no number", path);
  return *number;
}

Result<> WriteCgroupFile(const std::string& path, std::string_view value) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return ErrnoError("open '{}' to write '{}'", path, value);
  ssize_t n;
  do n = write(fd.get(), value.data(), value.size());
  while (n < 0 && errno == EINTR);
  if (n < 0) return ErrnoError("write '{}' to '{}'", value, path);
  if (static_cast<size_t>(n) != value.size()) {
    return MakeError(Code::kInternal, "write '{}' to '{}': only {} bytes went", value, path, n);
  }
  return {};
}

bool CgroupPathExists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::optional<uint64_t> FlatKey(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    if (line.size() > key.size() && line[key.size()] == ' ' && line.starts_with(key)) {
      auto number = ParseUint64(line.substr(key.size() + 1));
      if (!number) return std::nullopt;
      return *number;
    }
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return std::nullopt;
}

Result<std::vector<int>> CgroupPids(const std::string& dir) {
  std::vector<int> pids;
  auto visit = [&](const std::string& one) { return AppendPids(one, false, &pids); };
  TRY(Walk(dir, 0, visit));
  std::sort(pids.begin(), pids.end());
  pids.erase(std::unique(pids.begin(), pids.end()), pids.end());
  return pids;
}

Result<std::vector<int>> OwnCgroupPids(const std::string& dir) {
  std::vector<int> pids;
  TRY(AppendPids(dir, false, &pids));
  return pids;
}

Result<bool> CgroupEmpty(const std::string& dir) {
  std::vector<int> pids;
  auto visit = [&](const std::string& one) { return AppendPids(one, true, &pids); };
  TRY(Walk(dir, 0, visit));
  return pids.empty();
}

Result<bool> MakeOneCgroup(const std::string& dir) {
  if (mkdir(dir.c_str(), 0755) == 0) return true;
  if (errno == EEXIST) return false;
  return ErrnoError("make cgroup '{}'", dir);
}

Result<> RemoveCgroup(const std::string& dir) {
  if (rmdir(dir.c_str()) == 0 || errno == ENOENT) return {};
  int err = errno;
  auto visit = [](const std::string& one) -> Result<> {
    if (rmdir(one.c_str()) == 0 || errno == ENOENT) return {};
    int reason = errno;
    Error error = SysError(reason, fmt::format("remove cgroup '{}'", one));
    if (reason == EBUSY) error.code = Code::kFailedPrecondition;
    return error;
  };
  // EBUSY (processes or, on v1, children) and ENOTEMPTY say that there may be groups below.
  if (err == EBUSY || err == ENOTEMPTY) return Walk(dir, 0, visit);
  return SysError(err, fmt::format("remove cgroup '{}'", dir));
}

Result<> SignalCgroup(const std::string& dir, int signal) {
  std::vector<int> first = TRY(CgroupPids(dir));
  constexpr size_t kBatch = 128;  // descriptors open at a time
  for (size_t at = 0; at < first.size(); at += kBatch) {
    std::vector<std::pair<int, UniqueFd>> open_fds;
    for (size_t i = at; i < std::min(first.size(), at + kBatch); ++i) {
      UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, first[i], 0)));
      if (pidfd) {
        open_fds.emplace_back(first[i], std::move(pidfd));
      } else if (errno != ESRCH && errno != EINVAL) {
        return ErrnoError("pidfd_open {}", first[i]);
      }
    }
    std::vector<int> now = TRY(CgroupPids(dir));
    for (auto& [pid, pidfd] : open_fds) {
      if (!std::binary_search(now.begin(), now.end(), pid)) continue;
      if (syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0) != 0 && errno != ESRCH) {
        return ErrnoError("send signal {} to process {} of '{}'", signal, pid, dir);
      }
    }
  }
  return {};
}

}  // namespace caisson::oci

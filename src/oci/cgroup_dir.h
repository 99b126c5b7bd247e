// SPDX-License-Identifier: Apache-2.0
//
// Single operations on the files and directories of a cgroup hierarchy. Functions on absolute paths, no state; errors
// name the file and, when writing, the value. They work on any directory, so what is built on them can be tested
// without a kernel of the right kind.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::oci {

// Contents without the final newline. Errors: kNotFound; kResourceExhausted above limits::kCgroupFileBytes.
Result<std::string> ReadCgroupFile(const std::string& path);
// "max" and "-1" are UINT64_MAX.
Result<uint64_t> ReadCgroupNumber(const std::string& path);
// One write(2) of `value` to the existing file `path`.
Result<> WriteCgroupFile(const std::string& path, std::string_view value);
bool CgroupPathExists(const std::string& path);

// The number behind `key ` in "key number" lines (memory.stat, cpu.stat, cgroup.events).
std::optional<uint64_t> FlatKey(std::string_view text, std::string_view key);

// Processes in `dir` and the groups below it, as our pid namespace numbers them; those it cannot see are left out.
// A directory that is gone has none.
Result<std::vector<int>> CgroupPids(const std::string& dir);
// The same for `dir` alone.
Result<std::vector<int>> OwnCgroupPids(const std::string& dir);
// True if no process is in `dir` or below, counting those of other pid namespaces.
Result<bool> CgroupEmpty(const std::string& dir);

// Makes `path` below `root` and, where missing, its parents; those made are appended to `made`, parents first.
// Each new directory is passed to `init` before the next is made. The last one exists already: kAlreadyExists.
template <class Init>
Result<> MakeCgroup(const std::string& root, const std::string& path, std::vector<std::string>* made, Init init);
// Removes `dir` and the groups below it. Gone: success. Errors: EBUSY (kFailedPrecondition) with processes inside.
Result<> RemoveCgroup(const std::string& dir);

// Signals the processes of `pids` that `dir` still holds when it is read again after their pidfds are open: a pid that
// was reused elsewhere in between is never hit.
Result<> SignalCgroup(const std::string& dir, int signal);

// Runs `done` until it is true, sleeping 0.1 to 5 ms in between, or until the deadline (then: false).
template <class F>
Result<bool> PollUntil(Deadline deadline, F done);

// ---- Details ----

void SleepMicros(int64_t micros);
// mkdir(2) 0755; false if it is there already.
Result<bool> MakeOneCgroup(const std::string& dir);

template <class Init>
Result<> MakeCgroup(const std::string& root, const std::string& path, std::vector<std::string>* made, Init init) {
  size_t end = 0;
  std::string dir;
  bool created = false;
  while (end < path.size()) {
    size_t begin = end;
    while (begin < path.size() && path[begin] == '/') ++begin;
    end = path.find('/', begin);
    if (end == std::string::npos) end = path.size();
    if (end == begin) break;
    dir = root + "/" + path.substr(0, end);
    created = TRY(MakeOneCgroup(dir));
    if (created) {
      made->push_back(dir);
      TRY(init(dir));
    }
  }
  if (!created) return MakeError(Code::kAlreadyExists, "cgroup '{}' exists already", dir);
  return {};
}

template <class F>
Result<bool> PollUntil(Deadline deadline, F done) {
  for (int64_t pause = 100;; pause = pause * 3 / 2 > 5000 ? 5000 : pause * 3 / 2) {
    bool yes = TRY(done());
    if (yes) return true;
    if (deadline.Passed()) return false;
    SleepMicros(pause);
  }
}

}  // namespace caisson::oci

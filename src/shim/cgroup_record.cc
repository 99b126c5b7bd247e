// SPDX-License-Identifier: Apache-2.0
#include "shim/cgroup_record.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "oci/cgroup.h"
#include "shim/oci_runtime.h"
#include "sys/path.h"

namespace caisson::shim {
namespace {
constexpr int64_t kDeleteMillis = 10'000;
std::string RecordPath(const std::string& bundle) { return bundle + "/cgroups"; }

Result<> CleanUpCgroups(const std::string& bundle) {
  auto text = sys::ReadFile(RecordPath(bundle), limits::kJsonBytes);
  if (!text) return text.error().sys_errno == ENOENT ? Result<>() : Result<>(std::move(text.error()));
  Result<> first;
  for (std::string_view line : Split(*text, '\n')) {
    size_t space = line.find(' ');
    if (space == std::string_view::npos) continue;
    oci::CgroupOptions options;
    options.systemd = line.substr(0, space) == "systemd";
    options.path = std::string(line.substr(space + 1));
    auto cgroup = oci::Cgroup::Open(options);
    if (!cgroup) {
      if (cgroup.error().code != Code::kNotFound && first) first = std::move(cgroup.error());
      continue;
    }
    auto deleted = (*cgroup)->Delete(Deadline::After(kDeleteMillis));
    if (!deleted && first) first = std::move(deleted);
  }
  if (first) unlink(RecordPath(bundle).c_str());
  return first;
}

}  // namespace

Result<> RecordCgroup(const std::string& bundle, const std::string& cgroups_path, bool systemd) {
  if (cgroups_path.find('\n') != std::string::npos) return MakeError(Code::kInvalidArgument, "a cgroup path has a line end");
  UniqueFd file(open(RecordPath(bundle).c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600));
  std::string line = fmt::format("{} {}\n", systemd ? "systemd" : "cgroupfs", cgroups_path);
  if (!file || write(file.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    return ErrnoError("record a cgroup in '{}'", RecordPath(bundle));
  }
  return {};
}

void ForgetCgroups(const std::string& bundle) { unlink(RecordPath(bundle).c_str()); }

Result<> CleanUp(const std::string& bundle) {
  auto cleaned = CleanUpCgroups(bundle);
  RemoveRuntimeRemains(bundle);
  // Where the kernel could not keep the pod's /dev/shm detached it is mounted here.
  umount2((bundle + "/shm").c_str(), MNT_DETACH);
  return cleaned;
}

}  // namespace caisson::shim

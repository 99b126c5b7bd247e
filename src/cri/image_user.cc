// SPDX-License-Identifier: Apache-2.0
#include "cri/image_user.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <limits>

#include "base/unique_fd.h"
#include "sys/path.h"

namespace caisson::cri {
namespace {

// As overlay shows it: the topmost layer that has the name decides; a whiteout (a 0:0 device) means that there is none.
Result<std::string> ReadLayered(const std::vector<std::string>& lower_dirs, const char* path) {
  for (const auto& dir : lower_dirs) {
    UniqueFd root(open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!root) return ErrnoError("open image layer '{}'", dir);
    auto file = sys::OpenInRoot(root.get(), path, O_PATH);
    if (file) {
      struct stat info {};
      if (fstat(file->get(), &info) != 0) return ErrnoError("look at '{}' of the image", path);
      if (S_ISCHR(info.st_mode)) return std::string();
      return sys::ReadUserFile(root.get(), path);
    }
    if (file.error().sys_errno != ENOENT && file.error().sys_errno != ENOTDIR && file.error().sys_errno != ELOOP) return std::move(file.error());
  }
  return std::string();
}

Result<uint32_t> ToId(int64_t value, const char* what) {
  if (value < 0 || value > std::numeric_limits<int32_t>::max()) return MakeError(Code::kInvalidArgument, "{} {} is out of range", what, value);
  return static_cast<uint32_t>(value);
}

}  // namespace

Result<sys::User> ResolveContainerUser(const runtime::v1::LinuxContainerSecurityContext& security, const std::string& image_user,
                                       const std::vector<std::string>& lower_dirs) {
  sys::UserRequest request;
  if (security.has_run_as_user()) {
    request.user = fmt::format("{}", TRY(ToId(security.run_as_user().value(), "run_as_user")));
  } else if (!security.run_as_username().empty()) {
    request.user = security.run_as_username();
  } else {
    request.user = image_user;
    if (security.has_run_as_group()) return MakeError(Code::kInvalidArgument, "run_as_group without run_as_user or run_as_username");
  }
  if (security.has_run_as_group()) request.gid = TRY(ToId(security.run_as_group().value(), "run_as_group"));
  for (int64_t group : security.supplemental_groups()) request.supplemental.push_back(TRY(ToId(group, "supplemental group")));
  request.merge_groups = security.supplemental_groups_policy() == runtime::v1::Merge;
  std::string passwd = TRY(ReadLayered(lower_dirs, "/etc/passwd"));
  std::string group = TRY(ReadLayered(lower_dirs, "/etc/group"));
  return sys::ResolveUserIn(passwd, group, request);
}

}  // namespace caisson::cri

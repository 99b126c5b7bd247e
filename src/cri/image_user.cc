// SPDX-License-Identifier: Apache-2.0
#include "cri/image_user.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <limits>

#include "base/limits.h"
#include "base/unique_fd.h"
#include "image/below.h"
#include "sys/path.h"

namespace caisson::cri {
namespace {

Result<std::string> ReadRegular(const UniqueFd& found, const struct stat& info, const std::string& path) {
  if (!S_ISREG(info.st_mode)) return std::string();
  // FindInLayers' descriptors are O_PATH.
  UniqueFd file(open(sys::FdPath(found.get()).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return ErrnoError("open '{}' of the image", path);
  auto content = sys::ReadAll(file.get(), limits::kUserFileBytes);
  if (!content) return std::move(content.error()).Within(fmt::format("'{}' of the image", path));
  return content;
}

// The file as the overlay of the layers shows it; empty where it shows none.
Result<std::string> ReadLayered(const std::vector<std::string>& lower_dirs, const std::string& path) {
  auto found = image::ResolveInLayers(lower_dirs, path);
  if (!found && found.error().code == Code::kNotFound) return std::string();
  if (!found) return std::move(found.error());
  struct stat info {};
  if (fstat(found->get(), &info) != 0) return ErrnoError("look at '{}' of the image", path);
  return ReadRegular(*found, info, path);
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
  auto policy = security.supplemental_groups_policy();
  if (policy != runtime::v1::Merge && policy != runtime::v1::Strict) {
    return MakeError(Code::kInvalidArgument, "supplemental_groups_policy {} is not known", static_cast<int>(policy));
  }
  request.merge_groups = security.supplemental_groups_policy() == runtime::v1::Merge;
  std::string passwd = TRY(ReadLayered(lower_dirs, "/etc/passwd"));
  std::string group = TRY(ReadLayered(lower_dirs, "/etc/group"));
  return sys::ResolveUserIn(passwd, group, request);
}

}  // namespace caisson::cri

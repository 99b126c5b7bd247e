// SPDX-License-Identifier: Apache-2.0
#include "cri/log_path.h"

#include <filesystem>

#include "base/limits.h"
#include "base/strings.h"

namespace caisson::cri {

Result<std::string> JoinLogPath(const std::string& log_directory, const std::string& log_path) {
  if (log_directory.empty() || log_path.empty()) return std::string();
  if (!log_directory.starts_with('/')) {
    return MakeError(Code::kInvalidArgument, "the log directory '{}' is not absolute", log_directory.substr(0, 256));
  }
  std::string joined = log_directory;
  while (joined.size() > 1 && joined.ends_with('/')) joined.pop_back();
  joined += log_path.starts_with('/') ? log_path : "/" + log_path;
  if (joined.size() >= limits::kPathBytes || joined.ends_with('/') || joined.find('\0') != std::string::npos) {
    return MakeError(Code::kInvalidArgument, "the log path '{}' cannot be a file", log_path.substr(0, 256));
  }
  for (std::string_view part : Split(joined, '/')) {
    if (part == "..") {
      return MakeError(Code::kInvalidArgument, "the log path '{}' leaves the log directory", joined.substr(0, 256));
    }
  }
  return joined;
}

Result<> MakeLogDir(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error) return SysError(error.value(), fmt::format("make the log directory of '{}'", path));
  return {};
}

}  // namespace caisson::cri

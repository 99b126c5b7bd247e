// SPDX-License-Identifier: Apache-2.0
#include "net/plugin.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/strings.h"

namespace caisson::net {

Result<std::string> FindPlugin(std::string_view type, const std::vector<std::string>& dirs) {
  for (const std::string& dir : dirs) {
    std::string path = fmt::format("{}/{}", dir, type);
    struct stat status;
    if (stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && access(path.c_str(), X_OK) == 0) return path;
  }
  return MakeError(Code::kNotFound, "CNI plugin '{}' is not in {}", type, Join(dirs, ", "));
}

Result<PluginOutput> RunPlugin(const std::string& path, const std::vector<std::string>& environment,
                               std::string_view input, const Deadline& deadline) {
  return sys::RunCommand({{path}, environment, input, limits::kCniOutputBytes, false, {}}, deadline);
}

}  // namespace caisson::net

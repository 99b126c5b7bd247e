// SPDX-License-Identifier: Apache-2.0
#include "sys/oom_score.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "base/strings.h"
#include "base/unique_fd.h"
#include "sys/path.h"

namespace caisson::sys {

Result<int> OwnOomScore() { return static_cast<int>(TRY(ParseInt64(Trim(TRY(ReadFile("/proc/self/oom_score_adj", 64)))))); }

Result<> SetOomScore(int pid, int score) {
  std::string path = pid == 0 ? "/proc/self/oom_score_adj" : fmt::format("/proc/{}/oom_score_adj", pid), text = fmt::format("{}", score);
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file || write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return ErrnoError("write {} to '{}'", score, path);
  return {};
}

}  // namespace caisson::sys

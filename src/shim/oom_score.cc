// SPDX-License-Identifier: Apache-2.0
#include "shim/oom_score.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/log.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "sys/path.h"

namespace caisson::shim {
namespace {

Result<> WriteOomScore(int pid, int score) {
  std::string path = fmt::format("/proc/{}/oom_score_adj", pid), text = fmt::format("{}", score);
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file || write(file.get(), text.data(), text.size()) < 0) return ErrnoError("write {} to '{}'", score, path);
  return {};
}

}  // namespace

int OwnOomScore() {
  auto text = sys::ReadFile("/proc/self/oom_score_adj", 64);
  auto own = text ? ParseInt64(Trim(*text)) : Result<int64_t>(std::move(text.error()));
  return own ? std::max(0, static_cast<int>(*own)) : 0;
}

void SetOomScore(int pid, int score) {
  auto written = WriteOomScore(pid, score);
  if (!written && written.error().sys_errno == EACCES) written = WriteOomScore(pid, std::max(score, OwnOomScore()));
  bool gone = !written && (written.error().sys_errno == ENOENT || written.error().sys_errno == ESRCH);
  if (!written && !gone) log::Warn("{}", written.error().message);
}

}  // namespace caisson::shim

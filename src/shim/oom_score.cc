// SPDX-License-Identifier: Apache-2.0
#include "shim/oom_score.h"

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "sys/oom_score.h"

namespace caisson::shim {

int OwnOomScore() { return std::max(0, sys::OwnOomScore().value_or(0)); }

void SetOomScore(int pid, int score) {
  auto written = sys::SetOomScore(pid, score);
  if (!written && written.error().sys_errno == EACCES) written = sys::SetOomScore(pid, std::max(score, OwnOomScore()));
  bool gone = !written && (written.error().sys_errno == ENOENT || written.error().sys_errno == ESRCH);
  if (!written && !gone) log::Warn("{}", written.error().message);
}

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
//
// The ids that the daemon gives to processes it runs in containers: "<kind>-<instance>-<random>". The instance is this
// run of the daemon: what bears another's was left behind by a daemon that died. Pure but for the random part.
#pragma once

#include <string>
#include <string_view>

#include "base/id.h"
#include "base/strings.h"

namespace caisson::cri {

inline constexpr std::string_view kSyncExec = "sync";      // of ExecSync; the companion forgets it by itself
inline constexpr std::string_view kStreamExec = "stream";  // of Exec

inline std::string NewInstance() { return NewId().substr(0, 12); }
inline std::string NewExecId(std::string_view kind, std::string_view instance) {
  return fmt::format("{}-{}-{}", kind, instance, NewId().substr(0, 16));
}
// True for an id that NewExecId made with this `kind` and another instance.
inline bool IsStale(std::string_view exec_id, std::string_view kind, std::string_view instance) {
  auto parts = Split(exec_id, '-');
  return parts.size() == 3 && parts[0] == kind && parts[1] != instance;
}

}  // namespace caisson::cri

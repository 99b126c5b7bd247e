// SPDX-License-Identifier: Apache-2.0
//
// Strays: processes that a daemon started for a pod and, being killed, could not note down: a companion whose pid it had
// not written yet, a CNI plugin that is still at work. They are known by the pod's id, a random word that is in the
// arguments of the one and in the environment of the other. Any thread.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"

namespace caisson::cri {

struct Stray {
  enum class Kind { kCompanion, kPlugin };
  std::string pod_id;
  Kind kind = Kind::kCompanion;
  int pid = 0;
  UniqueFd pidfd;
};

// Processes of the pods `ids`. Those that end while they are looked at are left out.
std::vector<Stray> FindStrays(const std::set<std::string>& ids);

// SIGKILL, and waits for the end.
void KillStray(const Stray& stray);
// Gives a plugin `millis` to end by itself: one that is killed half-way could leave a lease that names nobody. Then kills it.
void AwaitStray(const Stray& stray, int64_t millis);

// What a process's arguments or environment, each ended by a zero byte, say of a pod; empty: nothing.
std::string_view PodOfCompanion(std::string_view arguments);
std::string_view PodOfPlugin(std::string_view environment);

}  // namespace caisson::cri

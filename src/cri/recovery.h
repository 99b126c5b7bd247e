// SPDX-License-Identifier: Apache-2.0
//
// Finding the world again: at the daemon's start, before the first RPC is served, and when the connection to a companion
// is lost while it lives. What the index says is compared with what there is; exits that happened meanwhile are
// recorded with the companion's times; what nobody knows any more is removed.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cri/context.h"

namespace caisson::cri {

// What recovery does with a pod of the index.
enum class PodFate {
  kNothing,   // stopped long ago
  kReattach,  // its companion should live
  kRebooted,  // the node has booted since: nothing of it runs, its network attachment is stale
};
PodFate FateOf(const PodRecord& record, const std::string& boot_id);

// Connects to the pod's companion again and brings its containers' records up to date.
// Errors: kNotFound if the companion is gone; whatever kept it from answering otherwise.
Result<> AttachPod(Context& context, const PodPtr& pod);
// The connection to a living companion has ended (Shims::OnEnd): attaches again on a thread of its own, or kills it.
void PodLost(Context& context, const std::string& pod_id);
// Loads both indexes and does all of the above. Errors: only what makes serving senseless (the index).
Result<> Recover(Context& context);

}  // namespace caisson::cri

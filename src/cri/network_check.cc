// SPDX-License-Identifier: Apache-2.0
#include "cri/network_check.h"

#include "base/clock.h"
#include "base/log.h"
#include "cri/pod_network.h"

namespace caisson::cri {
namespace {

// False: a plugin hangs, and would with the next pods too.
bool CheckNetwork(Context& context, const PodPtr& pod) {
  // Spec, "CNI operations": no two at once for one attachment.
  std::lock_guard lock(pod->operation);
  auto record = pod->Get();
  if (record->state() != runtime::v1::SANDBOX_READY || !record->network().attached()) return true;
  auto attachment = AttachmentOf(*record);
  if (!attachment) return true;
  auto checked = context.cni.Check(*attachment, NetworkResultOf(record->network()));
  if (!checked && checked.error().code == Code::kUnimplemented) return true;  // its configuration is older than CHECK
  if (!checked) log::Warn("the network of pod {} is not as it was made: {}", pod->id(), checked.error().message);
  (void)context.pods.Observe(pod, [&](PodRecord& changed) {
    changed.mutable_network()->set_checked_at_nanos(NowNanos());
    changed.mutable_network()->set_check_error(checked ? "" : checked.error().message);
  });
  return checked || checked.error().code != Code::kDeadlineExceeded;
}

}  // namespace

void CheckNetworks(Context& context) {
  std::vector<PodPtr> pods = context.pods.List();
  if (pods.empty()) return;
  // One after another: it is nobody's hurry, and a node's plugins have a lock of their own anyway (xtables).
  context.background.Start([&context, pods = std::move(pods)] {
    for (const PodPtr& pod : pods) {
      if (context.background.stopping() || !CheckNetwork(context, pod)) return;
    }
  });
}

}  // namespace caisson::cri

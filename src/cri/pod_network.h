// SPDX-License-Identifier: Apache-2.0
//
// A pod's network: what CNI is told of it, made from the pod's record alone so that DEL says what ADD said.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "cri/context.h"

namespace caisson::cri {

// A Kubernetes quantity ("10M", "1.5Gi", "100m", "1e3") as a whole number, rounded up.
Result<int64_t> ParseQuantity(std::string_view text);
// Pod annotations kubernetes.io/{ingress,egress}-bandwidth as CNI's bandwidth capability; none: nothing.
Result<std::optional<std::string>> BandwidthOf(const runtime::v1::PodSandboxConfig& config);

Result<net::Attachment> AttachmentOf(const PodRecord& pod);
net::NetworkResult NetworkResultOf(const daemon::v1::NetworkRecord& network);
void SetNetwork(const net::NetworkResult& result, daemon::v1::NetworkRecord* network);

// CNI DEL if the record says that the pod is attached, then the network namespace's removal. Blocks; under CNI's deadline.
Result<> ReleaseNetwork(Context& context, const PodRecord& record);

}  // namespace caisson::cri

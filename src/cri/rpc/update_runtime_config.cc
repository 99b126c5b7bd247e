// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::UpdateRuntimeConfigResponse> UpdateRuntimeConfig(Context&, const v1::UpdateRuntimeConfigRequest&) {
  // The pod CIDR is for runtimes that write the CNI configuration themselves. Ours is the node's own; like other
  // runtimes without a template we have nothing to do with the value.
  return v1::UpdateRuntimeConfigResponse();
}

}  // namespace caisson::cri

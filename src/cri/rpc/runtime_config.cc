// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::RuntimeConfigResponse> RuntimeConfig(Context& context, const v1::RuntimeConfigRequest&) {
  v1::RuntimeConfigResponse response;
  response.mutable_linux()->set_cgroup_driver(context.systemd_cgroup ? v1::SYSTEMD : v1::CGROUPFS);
  return response;
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"
#include "cri/rpc/rpc.h"
#include "net/conf_template.h"

namespace caisson::cri {

Result<v1::UpdateRuntimeConfigResponse> UpdateRuntimeConfig(Context& context, const v1::UpdateRuntimeConfigRequest& request) {
  const CniSettings& cni = context.config.cni;
  const std::string& cidr = request.runtime_config().network_config().pod_cidr();
  // Most networks bring their configuration with them. A node that has no CIDR yet says an empty one.
  if (cni.conf_template.empty() || cidr.empty()) return v1::UpdateRuntimeConfigResponse();
  TRY(net::WriteConfTemplate(cni.conf_template, cni.conf_dir, cidr));
  log::Info("CNI: {}/{} is of the pod CIDR '{}'", cni.conf_dir, net::kTemplateFile, cidr);
  return v1::UpdateRuntimeConfigResponse();
}

}  // namespace caisson::cri

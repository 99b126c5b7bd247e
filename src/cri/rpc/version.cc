// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"
#include "cri/version.h"

namespace caisson::cri {

Result<v1::VersionResponse> Version(Context&, const v1::VersionRequest&) {
  v1::VersionResponse response;
  response.set_version("0.1.0");  // of the kubelet's runtime API, and the only one there has ever been
  response.set_runtime_name("caisson");
  response.set_runtime_version(kVersion);
  response.set_runtime_api_version("v1");
  return response;
}

}  // namespace caisson::cri

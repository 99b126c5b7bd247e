// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::RemoveImageResponse> RemoveImage(Context& context, const v1::RemoveImageRequest& request) {
  if (request.image().image().empty()) return MakeError(Code::kInvalidArgument, "the image to remove is not named");
  auto removed = context.images.Remove(request.image().image());
  // CRI: idempotent.
  if (!removed && removed.error().code != Code::kNotFound) return std::move(removed.error());
  return v1::RemoveImageResponse();
}

}  // namespace caisson::cri

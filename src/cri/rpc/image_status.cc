// SPDX-License-Identifier: Apache-2.0
#include "cri/image_message.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<std::optional<image::Image>> FindImage(Context& context, const std::string& name) {
  auto found = context.images.Find(name);
  if (found) return std::optional(std::move(*found));
  // A name that no image can have is one that no image has.
  if (found.error().code == Code::kNotFound || found.error().code == Code::kInvalidArgument) {
    return std::optional<image::Image>();
  }
  return std::move(found.error());
}

Result<v1::ImageStatusResponse> ImageStatus(Context& context, const v1::ImageStatusRequest& request) {
  if (request.image().image().empty()) return MakeError(Code::kInvalidArgument, "the image to look for is not named");
  v1::ImageStatusResponse response;
  auto found = TRY(FindImage(context, request.image().image()));
  if (!found) return response;  // CRI: absent is no error
  *response.mutable_image() = ImageMessage(*found);
  if (request.verbose()) (*response.mutable_info())["info"] = ImageInfoJson(*found);
  return response;
}

}  // namespace caisson::cri

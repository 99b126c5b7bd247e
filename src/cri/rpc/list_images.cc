// SPDX-License-Identifier: Apache-2.0
#include "cri/image_message.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

Result<v1::ListImagesResponse> ListImages(Context& context, const v1::ListImagesRequest& request) {
  v1::ListImagesResponse response;
  const std::string& wanted = request.filter().image().image();
  if (wanted.empty()) {
    for (const image::Image& image : context.images.List()) *response.add_images() = ImageMessage(image);
    return response;
  }
  auto found = FindImage(context, wanted);
  if (!found) return std::move(found.error());
  if (*found) *response.add_images() = ImageMessage(**found);
  return response;
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// Images in the CRI's words. Pure.
#pragma once

#include <string>

#include "cri/v1/api.pb.h"
#include "image/image_store.h"

namespace caisson::cri {

runtime::v1::Image ImageMessage(const image::Image& image);
// The verbose information of ImageStatus.
std::string ImageInfoJson(const image::Image& image);

}  // namespace caisson::cri

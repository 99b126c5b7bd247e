// SPDX-License-Identifier: Apache-2.0
//
// Platforms of images (image-spec image-index.md, "platform") and which of them a node can run. Pure values.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace caisson::image {

struct Platform {
  std::string os, architecture, variant;
  std::string os_version;
  std::vector<std::string> os_features;

  std::string ToString() const;  // "linux/arm64/v8"
};

// What this program runs on, in Go's words ("linux", "amd64", "").
Platform HostPlatform();
// Aliases resolved and default variants dropped: x86_64 is amd64, aarch64 is arm64, arm64/v8 is arm64, arm is arm/v7.
Platform Normalized(Platform platform);
// How well an image for `image` suits `node`: 0 is the node's own platform, larger is a fallback (arm/v6 on arm/v7, arm
// on arm64, …), negative does not run.
int PlatformRank(const Platform& node, const Platform& image);

}  // namespace caisson::image

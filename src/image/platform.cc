// SPDX-License-Identifier: Apache-2.0
#include "image/platform.h"

#include <algorithm>
#include <cctype>

namespace caisson::image {
namespace {

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// "v7" is 7; 0 where there is no such number.
int VariantNumber(const std::string& variant) {
  return variant.size() == 2 && variant[0] == 'v' && variant[1] >= '1' && variant[1] <= '9' ? variant[1] - '0' : 0;
}

}  // namespace

std::string Platform::ToString() const {
  std::string text = os + "/" + architecture;
  if (!variant.empty()) text += "/" + variant;
  return text;
}

Platform HostPlatform() {
#if defined(__x86_64__)
  return {"linux", "amd64", "", "", {}};
#elif defined(__aarch64__)
  return {"linux", "arm64", "", "", {}};
#elif defined(__arm__)
  return {"linux", "arm", "v7", "", {}};
#elif defined(__riscv)
  return {"linux", "riscv64", "", "", {}};
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
  return {"linux", "ppc64le", "", "", {}};
#elif defined(__s390x__)
  return {"linux", "s390x", "", "", {}};
#else
#error "name this architecture in Go's words"
#endif
}

Platform Normalized(Platform platform) {
  platform.os = Lower(std::move(platform.os));
  std::string& arch = platform.architecture = Lower(std::move(platform.architecture));
  std::string& variant = platform.variant = Lower(std::move(platform.variant));
  if (platform.os == "macos") platform.os = "darwin";
  if (variant.size() == 1 && std::isdigit(static_cast<unsigned char>(variant[0]))) variant.insert(0, "v");
  if (arch == "i386") arch = "386", variant.clear();
  if (arch == "x86_64" || arch == "x86-64") arch = "amd64";
  if (arch == "amd64" && variant == "v1") variant.clear();
  if (arch == "aarch64") arch = "arm64";
  if (arch == "arm64" && (variant == "v8" || variant == "v8.0")) variant.clear();
  if (arch == "armhf") arch = "arm", variant = "v7";
  if (arch == "armel") arch = "arm", variant = "v6";
  if (arch == "arm" && variant.empty()) variant = "v7";
  return platform;
}

int PlatformRank(const Platform& node_in, const Platform& image_in) {
  Platform node = Normalized(node_in);
  Platform image = Normalized(image_in);
  if (node.os != image.os) return -1;
  if (node.architecture == image.architecture) {
    if (node.variant == image.variant) return 0;
    if (node.architecture == "arm") {
      // An older instruction set runs on a newer one; the newest of them first.
      int have = VariantNumber(node.variant), want = VariantNumber(image.variant);
      return want >= 5 && want < have ? have - want : -1;
    }
    // A base image runs on a node of any variant (amd64/v3, arm64/v9), not the other way round.
    return image.variant.empty() ? 1 : -1;
  }
  if (node.architecture == "arm64" && image.architecture == "arm") {
    int want = VariantNumber(image.variant);
    return want >= 5 && want <= 8 ? 10 + (8 - want) : -1;
  }
  if (node.architecture == "amd64" && image.architecture == "386") return 20;
  return -1;
}

}  // namespace caisson::image

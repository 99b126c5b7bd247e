// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"

#include "base/clock.h"

namespace caisson::cri {
namespace {

constexpr int64_t kLayerMillis = 1000;

void SetUsage(const image::Usage& usage, const std::string& mountpoint, v1::FilesystemUsage* message) {
  message->set_timestamp(NowNanos());
  message->mutable_fs_id()->set_mountpoint(mountpoint);
  message->mutable_used_bytes()->set_value(usage.bytes);
  message->mutable_inodes_used()->set_value(usage.inodes);
}

}  // namespace

Result<v1::ImageFsInfoResponse> ImageFsInfo(Context& context, const v1::ImageFsInfoRequest&) {
  v1::ImageFsInfoResponse response;
  // Images and writable layers are in one filesystem, which the kubelet sees by the equal names.
  std::string mountpoint = context.images.FilesystemPath();
  SetUsage(TRY(context.images.FilesystemUsage()), mountpoint, response.add_image_filesystems());
  image::Usage written;
  for (const auto& [key, layer] : context.writable_layers.Get(context.images.ListSnapshots(), kLayerMillis)) {
    written.bytes += layer.usage.bytes;
    written.inodes += layer.usage.inodes;
  }
  SetUsage(written, mountpoint, response.add_container_filesystems());
  return response;
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// Image volumes (KEP-4639): mounts of a container that show an image, or a folder or file in it. The image has to be here
// already. Each volume is a view of the image store under a key that its container's id begins, so that the image's layers
// stay as long as the container, and whoever finds the key knows whose it is. The container's init does the mounting.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cri/container_index.h"
#include "image/image_store.h"

namespace caisson::cri {

bool IsImageVolume(const runtime::v1::Mount& mount);

// Makes the views of `record`'s image volumes and returns their layers by their place in the config's mounts; nothing for
// other mounts. Errors begin with ImageVolumeMountFailed, which the kubelet looks for. What was made before one stays: see
// RemoveImageVolumes. `erofs`: the layers are EROFS images, for a VM.
Result<std::vector<std::vector<std::string>>> PrepareImageVolumes(image::ImageStore& images, const ContainerRecord& record,
                                                                  bool erofs);
// Absent: success.
Result<> RemoveImageVolumes(image::ImageStore& images, const ContainerRecord& record);
// The container that a snapshot belongs to, by its key: the key of its writable layer or of one of its image volumes.
std::string SnapshotOwner(const std::string& key);

// Layers as overlay's lowerdir takes them.
Result<std::string> LowerDirOption(const std::vector<std::string>& layers);

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "cri/image_volume.h"

#include <sys/stat.h>

#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "image/below.h"

namespace caisson::cri {

namespace v1 = runtime::v1;

namespace {

constexpr std::string_view kInfix = ".volume-";
constexpr int kMaxImageVolumes = 256;

std::string KeyOf(const std::string& container_id, int mount) { return fmt::format("{}{}{}", container_id, kInfix, mount); }

// As Kubernetes validates it: what leads up is refused although it could not lead out.
Result<> CheckSubPath(const std::string& path) {
  bool bad = path.size() >= limits::kPathBytes || path.starts_with('/') || path.find('\0') != std::string::npos;
  for (std::string_view part : Split(path, '/')) bad = bad || part == "..";
  if (bad) return MakeError(Code::kInvalidArgument, "the sub path '{}' is not a relative path without '..'", path.substr(0, 256));
  return {};
}

Result<std::vector<std::string>> PrepareOne(image::ImageStore& images, const v1::Mount& mount, const std::string& key) {
  if (!mount.host_path().empty()) return MakeError(Code::kInvalidArgument, "it names both an image and the host path '{}'", mount.host_path());
  if (mount.propagation() != v1::PROPAGATION_PRIVATE) return MakeError(Code::kInvalidArgument, "an image has no mounts to propagate");
  TRY(CheckSubPath(mount.image_sub_path()));
  auto view = TRY(images.PrepareView(key, mount.image().image()));
  if (mount.image_sub_path().empty()) return view.lower_dirs;
  // The init resolves it once more, where it mounts; this is for an answer that the pod's owner understands.
  auto found = image::ResolveInLayers(view.lower_dirs, mount.image_sub_path());
  if (!found && found.error().code == Code::kNotFound) return MakeError(Code::kNotFound, "the image has no '{}'", mount.image_sub_path());
  UniqueFd part = TRY(std::move(found));
  struct stat info {};
  if (fstat(part.get(), &info) != 0) return ErrnoError("look at '{}' of the image", mount.image_sub_path());
  if (!S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode)) return MakeError(Code::kInvalidArgument, "'{}' of the image is neither a folder nor a file", mount.image_sub_path());
  return view.lower_dirs;
}

}  // namespace

bool IsImageVolume(const v1::Mount& mount) { return !mount.image().image().empty(); }

Result<std::vector<std::vector<std::string>>> PrepareImageVolumes(image::ImageStore& images, const ContainerRecord& record,
                                                                  bool erofs) {
  const auto& mounts = record.config().mounts();
  std::vector<std::vector<std::string>> layers(static_cast<size_t>(mounts.size()));
  int volumes = 0;
  for (int i = 0; i < mounts.size(); ++i) {
    if (!IsImageVolume(mounts[i])) {
      if (mounts[i].image_sub_path().empty()) continue;
      return MakeError(Code::kInvalidArgument, "mount '{}': image_sub_path without an image", mounts[i].container_path());
    }
    if (++volumes > kMaxImageVolumes) return MakeError(Code::kResourceExhausted, "more than {} image volumes", kMaxImageVolumes);
    auto prepared = PrepareOne(images, mounts[i], KeyOf(record.id(), i));
    if (prepared && erofs) prepared = images.ErofsLayers(KeyOf(record.id(), i));
    if (!prepared) {
      return std::move(prepared.error()).Within(fmt::format("ImageVolumeMountFailed: image '{}' on '{}'", mounts[i].image().image().substr(0, 512), mounts[i].container_path()));
    }
    layers[static_cast<size_t>(i)] = std::move(*prepared);
  }
  return layers;
}

Result<> RemoveImageVolumes(image::ImageStore& images, const ContainerRecord& record) {
  for (int i = 0; i < record.config().mounts_size(); ++i) {
    if (IsImageVolume(record.config().mounts(i))) TRY(images.RemoveSnapshot(KeyOf(record.id(), i)));
  }
  return {};
}

std::string SnapshotOwner(const std::string& key) { return key.substr(0, key.find(kInfix)); }

Result<std::string> LowerDirOption(const std::vector<std::string>& layers) {
  for (const std::string& dir : layers) {
    if (dir.find_first_of(":,\\") != std::string::npos) return MakeError(Code::kInternal, "overlay cannot name the layer directory '{}'", dir);
  }
  return Join(layers, ":");
}

}  // namespace caisson::cri

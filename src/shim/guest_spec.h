// SPDX-License-Identifier: Apache-2.0
//
// An OCI specification for the host, made into one for a guest: what names the host's paths, namespaces, CPUs and cgroups
// becomes the guest's or goes. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "oci/seccomp.h"

namespace caisson::shim {

// How the guest gets what is at a bind mount's source.
enum class VolumeKind {
  kFile,    // a single file, as a copy
  kCopied,  // a folder, as a copy that follows what changes on the host
  kShared,  // the folder itself (file_service.h)
  kMemory,  // a volume in the guest's memory in its place (memory_folder.h)
};

// A bind mount's source on the host, and where the guest has it.
struct GuestVolume {
  std::string source;
  std::string name;  // one for each source, so that the containers of a pod share it
  VolumeKind kind = VolumeKind::kFile;
  bool read_only = false;
};

// A block device of the host's that a container gets as a disk.
struct GuestDisk {
  std::string path;  // on the host
  int64_t major = 0, minor = 0;  // which the device there must have
  bool read_only = true;
};

struct GuestSpec {
  std::string config_json;
  std::string root_path;  // the host's, as it says
  std::vector<GuestVolume> volumes;
  std::optional<int> oom_score_adj;  // of its process
  bool wants_modules = false;  // it may make bridges and the like, which the guest's kernel learns after its boot
  std::vector<GuestDisk> disks;  // whose devices have the host's numbers in config_json, until NumberDisks
  std::optional<oci::SeccompSpec> seccomp;  // for the host to compile; config_json has none
  std::vector<std::string> image_layers;  // EROFS images of the host's, that image volumes are made of; disks in the guest
};

using KindOf = std::function<VolumeKind(const std::string& source, bool read_only)>;

// `kind_of` tells of a path on the host. Errors: kUnimplemented, kFailedPrecondition with a sentence for what a VM cannot
// have: cgroups of the host, hooks, a namespace of the host's, a device of the host's, but for a block device whose path there is said
// by the member "hostPath" beside those that the runtime-spec has for a device.
Result<GuestSpec> MakeGuestSpec(std::string_view container_id, std::string_view host_config,
                                const KindOf& kind_of);
// The guest's numbers of the disks, in their order, take the place of the host's: in the devices and in the rules for them.
Result<std::string> NumberDisks(std::string_view config_json, const std::vector<GuestDisk>& disks,
                                const std::vector<std::pair<uint32_t, uint32_t>>& numbers);
// Under which the guest finds it when it is attached for the n-th time: a disk that is just going does not have the name of the next.
std::string DiskSerial(const GuestDisk& disk, uint32_t n);
// The same of an update's resources.
Result<std::string> MakeGuestResources(std::string_view host_resources);
// Of what is at a path of the host's: of how many containers ever, one name.
std::string VolumeName(const std::string& source);
// Where the guest has a volume, and the file in it where that is a single one.
std::string GuestVolumePath(const GuestVolume& volume);
// The disk that a layer is in the guest.
std::string LayerSerial(const std::string& layer);
inline constexpr char kSingleFile[] = "file";

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
//
// Volumes: small volumes (Secrets, ConfigMaps, single files) as copies in the guest's memory, below kRunDir/volumes/<name>,
// kept up to date by the companion. A new state of a volume is written beside the old one and takes effect when it is
// committed, as the kubelet's own writer does it: new folders first, then the symbolic links that lead to them are
// replaced by rename(2), then what is not mentioned goes. A file that stays keeps its inode: it may be mounted by itself.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agent/launches.h"
#include "base/result.h"
#include "caisson/guest/v1/guest.pb.h"
#include "caisson/guest/v1/launch.pb.h"

namespace caisson::agent {

// The launchers' part. Errors name the file; nothing that a path or link says leads out of the volume.
Result<> WriteVolume(const guest::v1::PutVolumeRequest& request);
// At most `limit` bytes of a regular file, and how large it is.
Result<guest::v1::GetFileResponse> ReadVolumeFile(const std::string& volume, const std::string& path, size_t limit);
// All volumes whose name begins with `prefix`. Idempotent.
void RemoveVolumes(const std::string& prefix);

// The messenger's: what has been said of volumes that are not whole yet.
class Volumes {
 public:
  explicit Volumes(Launches* launches) : launches_(launches) {}

  // Errors name the volume and the file.
  Result<> Put(const guest::v1::PutFilesRequest& request);

 private:
  struct Pending {
    std::set<std::string> mentioned;
    std::vector<guest::v1::File> links;
  };

  Launches* launches_;
  std::map<std::string, Pending> pending_;
};

}  // namespace caisson::agent

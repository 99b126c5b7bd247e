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

#include "base/result.h"
#include "caisson/guest/v1/guest.pb.h"

namespace caisson::agent {

class Volumes {
 public:
  // Errors name the volume and the file. Nothing that a path or link says leads out of the volume.
  Result<> Put(const guest::v1::PutFilesRequest& request);
  // At most `limit` bytes of a regular file.
  Result<std::string> Get(const std::string& volume, const std::string& path, size_t limit);
  // All volumes whose name begins with `prefix`. Idempotent.
  void RemoveAll(const std::string& prefix);

 private:
  struct Pending {
    std::set<std::string> mentioned;
    std::vector<guest::v1::File> links;
  };
  Result<> PutFile(int root, const guest::v1::File& file, Pending* pending);
  Result<> Commit(int root, const Pending& pending);

  std::map<std::string, Pending> pending_;
};

}  // namespace caisson::agent

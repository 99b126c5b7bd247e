// SPDX-License-Identifier: Apache-2.0
//
// GuestVolumes: bind mounts of the host's, shared with the guest (file_service.h) or as copies in it (agent/volumes.h), up to a bound. What changes in a folder on
// the host is brought after it (inotify(7)), as the kubelet's new states of Secrets and ConfigMaps; a single file is brought anew for each container that is
// created, if it has changed on the host; one that a container may write is brought back when the container has ended, as termination messages are: whole and
// if it has changed in there, or not at all. A copy goes with the last container that has it. One thread, the loop's.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "caisson/guest/v1/guest.pb.h"
#include "shim/file_service.h"
#include "shim/guest_client.h"
#include "shim/guest_spec.h"
#include "sys/event_loop.h"

namespace caisson::shim {

class GuestVolumes {
 public:
  using Done = std::function<void(Result<>)>;

  // All outlive it.
  GuestVolumes(sys::EventLoop* loop, GuestClient* client, FileService* files) : loop_(loop), client_(client), files_(files) {}
  GuestVolumes(const GuestVolumes&) = delete;
  GuestVolumes& operator=(const GuestVolumes&) = delete;
  ~GuestVolumes();

  // For a container: the guest has it as it is now, until Release, which also who gets an error calls. Errors name the source: what cannot be
  // kept as a copy.
  void Put(const std::string& container_id, const GuestVolume& volume, Done done);
  // The container is gone in the guest.
  void Release(const std::string& container_id);
  // Brings the single files among these back that may be written. What fails is logged.
  void BringBack(std::vector<GuestVolume> volumes, std::function<void()> done);

 private:
  struct Kept {
    GuestVolume volume;
    std::set<std::string> containers;
    UniqueFd file;  // a single file that may be written
    // Digests of what the guest has: what its files are like, and the content of a single one. Empty: it is not known.
    std::string state, content;
    int watch = -1;
    sys::EventLoop::TimerId timer = 0;  // an update is due
  };

  void ShareMemory(const GuestVolume& volume, Done done);
  Result<> Watch(Kept* kept);
  void Unwatch(Kept* kept);
  void Send(const guest::v1::PutFilesRequest& request, Done done);
  void OnChange();
  void Update(const std::string& name);
  static Result<> TakeBack(const guest::v1::GetFileResponse& got, Kept* kept);

  sys::EventLoop* loop_;
  GuestClient* client_;
  FileService* files_;
  UniqueFd changes_;
  std::map<std::string, Kept> kept_;  // by name
};

// A folder is copied if nobody in the guest may write it, the kubelet changes it as a whole (its link "..data": Secrets, ConfigMaps,
// projected and downward API volumes) and it is small enough; a kubelet's emptyDir in memory is in the guest's; each other one is shared.
VolumeKind KindOfVolume(const std::string& source, bool read_only);

// The volume's files, in the order in which they have to be made. No link of it is followed and nothing outside of it read.
// Errors: kResourceExhausted beyond limits::kVolumeCopyBytes or kVolumeCopyEntries; what is neither file, folder nor link.
Result<guest::v1::PutFilesRequest> ReadVolume(const GuestVolume& volume);

}  // namespace caisson::shim

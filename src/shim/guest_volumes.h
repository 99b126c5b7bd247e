// SPDX-License-Identifier: Apache-2.0
//
// GuestVolumes: bind mounts of the host's, shared with the guest (file_service.h) or as copies in it (agent/volumes.h), up to a bound. What changes in a folder on
// the host is brought after it (inotify(7)), as the kubelet's new states of Secrets and ConfigMaps; a single file that a
// container may write is brought back when the container has ended, as termination messages are: whole and if it has changed in
// there, or not at all. One thread, the loop's.
#pragma once

#include <functional>
#include <map>
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

  // Copies it unless the guest has it, or has it shared. Errors name the source: what cannot be kept as a copy.
  void Put(const GuestVolume& volume, Done done);
  // Brings the single files among these back that may be written. What fails is logged.
  void BringBack(std::vector<GuestVolume> volumes, std::function<void()> done);

 private:
  struct Kept {
    GuestVolume volume;
    UniqueFd file;        // a single file that may be written
    std::string content;  // its digest, as the guest was given it or gave it back
    int watch = -1;
    sys::EventLoop::TimerId timer = 0;  // an update is due
  };

  Result<> Keep(const GuestVolume& volume);
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
// projected and downward API volumes) and it is small enough; each other one is shared.
VolumeKind KindOfVolume(const std::string& source, bool read_only);

// The volume's files, in the order in which they have to be made. No link of it is followed and nothing outside of it read.
// Errors: kResourceExhausted beyond limits::kVolumeCopyBytes or kVolumeCopyEntries; what is neither file, folder nor link.
Result<guest::v1::PutFilesRequest> ReadVolume(const GuestVolume& volume);

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
//
// Disks: the guest's disks by the serial that the companion gave them, as they appear; and the read-only layers on some of them, each
// mounted once, however many containers have it. The others are containers' devices. One thread, the loop's.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "agent/launches.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "caisson/guest/v1/launch.pb.h"
#include "sys/event_loop.h"

namespace caisson::agent {

class Disks {
 public:
  // Where each layer is mounted, or each disk's node, in the order asked for.
  using Paths = std::function<void(Result<std::vector<std::string>>)>;

  // Both outlive it.
  Disks(sys::EventLoop* loop, Launches* launches) : loop_(loop), launches_(launches) {}
  ~Disks();

  // Listens for what the kernel says of devices (uevents).
  Result<> Start();
  // Mounts the EROFS file systems on the disks with these serials for `user`, waiting for those that are not there yet.
  // kDeadlineExceeded names the first that does not come. On failure `user` holds none.
  void MountLayers(const std::string& user, std::vector<std::string> serials, int64_t deadline_millis, Paths done);
  // Waits for disks that are nobody's layers until they can be opened: "/dev/sda".
  void Await(std::vector<std::string> serials, int64_t deadline_millis, Paths done);
  // `user` lets go. Returns the serials that nobody holds now; they are unmounted.
  std::vector<std::string> Release(const std::string& user);

 private:
  struct Layer {
    bool mounted = false;
    std::set<std::string> users;
  };
  struct Waiting {
    std::string user;  // empty: the disks are not mounted
    std::vector<std::string> serials;
    Paths done;
    std::string missing;  // the first that was not there at the latest look
    sys::EventLoop::TimerId timer = 0;
  };

  void OnUevent();
  void TryAll();
  void Look(uint64_t id, int64_t left_millis);
  void Wait(Waiting waiting, int64_t deadline_millis);
  // False: not all are there.
  Result<bool> TryOne(Waiting* waiting, std::vector<std::string>* paths);
  Result<bool> Probe(const guest::v1::MountLayersRequest& disks, Waiting* waiting);
  Result<bool> Mount(const guest::v1::MountLayersRequest& disks, Waiting* waiting);
  void Finish(uint64_t id, Result<std::vector<std::string>> result);

  sys::EventLoop* loop_;
  Launches* launches_;
  UniqueFd uevents_;
  std::map<std::string, Layer> layers_;  // by serial
  std::map<uint64_t, Waiting> waiting_;
  uint64_t next_ = 1;
};

// The launchers' part. False: that disk cannot be opened yet.
Result<bool> CanOpenDisk(const std::string& device);
// Which of them are mounted now, below kRunDir/layers. On failure none is that was not before.
Result<std::vector<bool>> MountLayerDisks(const guest::v1::MountLayersRequest& request);
void UnmountLayerDisk(const std::string& serial);

// "/dev/sda" of the disk with that serial; empty: there is none.
std::string FindDisk(const std::string& serial);

}  // namespace caisson::agent

// SPDX-License-Identifier: Apache-2.0
//
// FileService: the folders of the host that a VM pod's guest shares: written from both sides, or too large to be copied. A process
// of its own (files/serve.h), started with the first of them, serves them to the guest's FUSE client over a port of the VM that
// leads to nobody else; of the host it has detached copies of the folders' mounts and nothing more. The agent mounts what it
// serves. Its death is told with a reason: without it the pod's files hang.
//
// A folder is shared with all that is mounted below it at that time; what is mounted or unmounted later is not seen. It stays until
// End. One thread, the loop's, of a process that has no other (it clones).
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "caisson/guest/v1/guest.pb.h"
#include "files/serve.h"
#include "shim/guest_client.h"
#include "shim/guest_spec.h"
#include "sys/event_loop.h"

namespace caisson::shim {

class FileService {
 public:
  using Done = std::function<void(Result<>)>;
  using OnEnd = std::function<void(const std::string& reason)>;

  // `program`: this one, which `serve-files` is a verb of. Both pointers outlive it.
  FileService(sys::EventLoop* loop, GuestClient* client, std::string program = "/proc/self/exe")
      : loop_(loop), client_(client), program_(std::move(program)) {}
  FileService(const FileService&) = delete;
  FileService& operator=(const FileService&) = delete;
  ~FileService() { End(); }

  // `guest`: where the VM's port for files ends. The process, if there will be one, is born into `cgroup_procs`. `on_end` runs when it
  // has ended by itself.
  void SetGuest(UniqueFd guest, std::vector<std::string> cgroup_procs, OnEnd on_end);
  // Before there is a process.
  void SetCgroups(std::vector<std::string> cgroup_procs) { cgroup_procs_ = std::move(cgroup_procs); }
  // The guest has the folder, writable if any container's is. Errors name the folder.
  void Put(const GuestVolume& volume, Done done);
  // The guest has the folder that the detached mount `tree` is, read-only, under a name that no volume has; nobody changes it.
  void PutConstant(const std::string& name, UniqueFd tree, Done done);
  // The guest has it no longer, and nothing holds its mount. Not there: nothing.
  void Remove(const std::string& name);
  // The process is killed. Idempotent.
  void End();
  int pid() const { return pid_; }

 private:
  struct Shared {
    uint64_t device = 0, number = 0;
    bool writable = false;
  };

  Result<> Start();
  Result<> AwaitReady();
  Result<> Send(const GuestVolume& volume);
  Result<> SendMessage(const files::VolumeMessage& message, int fd);
  void ShareFolders(const std::string& what, Done done);
  void OnServerEnd();
  std::string LastWords();

  sys::EventLoop* loop_;
  GuestClient* client_;
  const std::string program_;
  UniqueFd guest_, control_, pidfd_;
  int pid_ = 0;
  std::vector<std::string> cgroup_procs_;
  OnEnd on_end_;
  std::map<std::string, Shared> shared_;  // by the volume's name
};

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
//
// Record: what the command line remembers of a container between its runs, in the folder <root>/<id>:
//
//   state.json    this record, always whole: written to another name and renamed
//   config.json   the bundle's configuration as it was when the container was created
//   gate          the socket at which the init waits to be started
//
// The folder is there from the first moment of `create` to the last of `delete`; whoever is killed in between leaves one
// that `delete` can clean up.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/cgroup.h"

namespace caisson::ocicli {

// A process that is still the same one: its number, and when it began, in ticks since boot (proc(5), stat field 22).
struct ProcessMark {
  int pid = 0;  // 0: none
  uint64_t start = 0;
};

struct Record {
  std::string id, bundle, rootfs;
  std::string created;  // RFC 3339
  ProcessMark init;     // pid 0: `create` has not got that far
  ProcessMark creator;
  std::string cgroup;  // as linux.cgroupsPath has it
  bool systemd_cgroup = false, rootless = false, own_pid_namespace = false;
  std::string owner;
  std::map<std::string, std::string> annotations;
};

// The words of the runtime-spec, and "paused".
enum class Status { kCreating, kCreated, kRunning, kPaused, kStopped };
const char* NameOf(Status status);

class Folder {
 public:
  Folder(std::string root, std::string id) : id_(std::move(id)), path_(std::move(root) + "/" + id_) {}

  const std::string& path() const { return path_; }
  std::string config_path() const { return path_ + "/config.json"; }

  // Makes it, and the root above it. kAlreadyExists: there is such a container.
  Result<> Make() const;
  Result<> Write(const Record& record) const;
  Result<> WriteConfig(std::string_view text) const;
  // kNotFound: "container 'x' does not exist". kDataLoss: the folder is there, but `create` was killed before it wrote this.
  Result<Record> Read() const;
  // Gone already: success.
  Result<> Remove() const;

  // The socket of the gate, listening. The folder's path may be longer than a socket's name can be.
  Result<UniqueFd> ListenAtGate() const;
  // Not valid: nobody listens there any more, so the program was started or has ended.
  Result<UniqueFd> ConnectToGate() const;

 private:
  std::string id_, path_;
};

// The ids of all folders in `root`, sorted.
Result<std::vector<std::string>> ListFolders(const std::string& root);

// Of a process that lives; pid 0 for one that does not, or has ended and is not reaped yet.
ProcessMark MarkOf(int pid);
bool IsAlive(const ProcessMark& mark);
// A pidfd of exactly that process; not valid if it has ended.
UniqueFd OpenProcess(const ProcessMark& mark);
// As much of the container's cgroup as there is, and as may be reached. kNotFound: nothing.
Result<std::unique_ptr<oci::Cgroup>> OpenCgroup(const Record& record);
Result<Status> StatusOf(const Folder& folder, const Record& record);

// runtime-spec runtime.md "State", and what other runtimes tell beside it.
Json StateJson(const Record& record, Status status);

}  // namespace caisson::ocicli

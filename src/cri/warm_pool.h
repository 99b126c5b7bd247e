// SPDX-License-Identifier: Apache-2.0
//
// WarmPool: machines that wait for pods (docs/vm.md). Each is a clone of a template that has run and ended a container already and stands
// still; its companion is that of a pod that does not exist yet, whose id it has. RunPodSandbox takes it with the id and makes the rest of
// the pod around it. One is made when pods of its kind have been started and no more come for a while, so that it takes no processor from
// them.
//
// Machines end with the daemon; one that was killed leaves them to the next, which ends them (Recover). For pods without a memory limit
// alone: what a machine takes before it is a pod's is charged to the daemon's cgroup. Whatever goes wrong costs the pod a clone of its own.
// Thread-safe.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

#include "base/clock.h"
#include "caisson/keeper/v1/keeper.pb.h"
#include "cri/background.h"
#include "cri/config.h"
#include "cri/fault.h"
#include "cri/shim_client.h"
#include "cri/templates.h"

namespace caisson::cri {

class WarmPool {
 public:
  struct Machine {
    std::string id;  // the pod's to be
    std::shared_ptr<ShimClient> shim;
  };

  // All outlive it. `quiet_millis`: so long after the last pod a machine is made.
  WarmPool(const Config& config, Shims& shims, Background& background, const FaultPoints& faults, Templates& templates, int64_t quiet_millis = 2'000)
      : config_(config), shims_(shims), background_(background), faults_(faults), templates_(templates), quiet_nanos_(quiet_millis * kNanosPerMilli) {}

  // What a former daemon has left is ended and removed.
  void Recover();
  // One of this shape; it is the caller's, who calls Drop if no pod comes of it.
  std::optional<Machine> Take(const keeper::v1::MakeRequest& shape);
  // The folder of a machine that has been taken becomes `pod_dir`.
  Result<> GiveFolder(const std::string& id, const std::string& pod_dir);
  void Drop(const Machine& machine);
  // There should be machines of this shape. Returns at once.
  void Want(const keeper::v1::MakeRequest& shape);
  // Those that wait end.
  void Clear();
  // How many wait.
  size_t Count();
  // Shims::OnEnd: true if that was a machine that nobody has taken.
  bool OnEnd(const std::string& id, bool died);
  // The daemon ends: before Background::Stop. Nothing is made any more, all end.
  void Close();

 private:
  struct Entry {
    std::string key;
    bool ready = false, ending = false;
    int64_t since = 0;
    std::shared_ptr<ShimClient> shim;
  };
  using Entries = std::map<std::string, Entry>;

  std::string FolderOf(const std::string& id) const;
  void RemoveFolder(const std::string& id) const;
  static void End(Entry* entry);
  // Until there are enough of what is wanted.
  void Work();
  // Whether one more is wanted; makes room for it.
  bool MakeRoom(const std::string& key);
  Result<> Make(const keeper::v1::MakeRequest& shape, const std::string& key);
  Result<> Fill(const keeper::v1::MakeRequest& shape, const std::string& id);
  Result<> MakeDisk(const std::string& companion);
  std::string DiskPath() const { return config_.TemplateDir() + "/rehearsal.erofs"; }

  const Config& config_;
  Shims& shims_;
  Background& background_;
  const FaultPoints& faults_;
  Templates& templates_;
  const int64_t quiet_nanos_;
  std::stop_source stop_;
  std::string disk_of_;  // the program in the disk; the worker's
  std::mutex mutex_;
  std::condition_variable changed_;
  Entries entries_;  // by id
  std::optional<keeper::v1::MakeRequest> wanted_;
  int64_t touched_ = 0;  // MonotonicNanos, of the last pod
  std::map<std::string, int64_t> failed_;  // by key, MonotonicNanos
  bool working_ = false, closing_ = false;
};

}  // namespace caisson::cri

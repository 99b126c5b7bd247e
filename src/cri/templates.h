// SPDX-License-Identifier: Apache-2.0
//
// Templates: VMs that have booted and been saved, of which VM pods are clones (docs/vm.md). Each is held by a process of its
// own, its keeper, a companion of no pod in <state>/templates/ID; keepers outlive the daemon, and recovery finds them again by
// their folders. A template is made in the background when a pod of its shape has had to boot; nobody waits for one.
//
// The key of a template is what a machine must have in common with it to be its clone: the files it is made of, by their
// identity on disk, and its size. What has another key by now is ended, as is the least recently used when there are too
// many. Whatever goes wrong costs a boot: it is logged and counted, and that key is left alone for a while. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "caisson/keeper/v1/keeper.pb.h"
#include "cri/background.h"
#include "cri/config.h"
#include "cri/fault.h"
#include "cri/pod_index.h"
#include "cri/shim_client.h"

namespace caisson::cri {

class DaemonMetrics;

struct TemplateInfo {
  std::string id, state;  // "making", "ready", "failed"
  keeper::v1::MakeRequest made;
  uint64_t bytes = 0, uses = 0;
  int64_t since_nanos = 0;    // in this state; CLOCK_REALTIME
  int64_t used_at_nanos = 0;  // 0: never
  std::string error;
};

// What a pod's VM is a clone of; of a record that has its `vm`. Without the pod's own: its user, its cgroup.
keeper::v1::MakeRequest TemplateFor(const Config& config, const PodRecord& record);

class Templates {
 public:
  // How long a key that has failed is left alone.
  static constexpr int64_t kAgainNanos = 300 * kNanosPerSecond;

  // All outlive it.
  Templates(const Config& config, Shims& shims, Background& background, const FaultPoints& faults)
      : config_(config), shims_(shims), background_(background), faults_(faults) {}

  // Before the first RPC; null: nobody counts.
  void set_metrics(DaemonMetrics* metrics) { metrics_ = metrics; }
  // Those of a former daemon: what is whole and still right is kept, the rest ended and removed.
  void Recover();
  // What a machine must have in common with another to be cloned from the same template. Errors: a file of it is not there.
  Result<std::string> KeyOf(const keeper::v1::MakeRequest& shape) const;
  // The folder of the template that such a VM can be cloned from, or empty.
  std::string FolderFor(const keeper::v1::MakeRequest& shape);
  // There should be one. Returns at once.
  void Want(const keeper::v1::MakeRequest& shape);
  // A companion could not make a clone of it.
  void Reject(const std::string& folder, const std::string& why);
  // Shims::OnEnd: true if that was a keeper and no pod's companion. Blocks for files only.
  bool OnEnd(const std::string& id, bool died);
  std::vector<TemplateInfo> List();
  // kNotFound. Its clones live on.
  Result<> Remove(const std::string& id);
  // The daemon ends; keepers do not.
  void Close();

 private:
  enum class State { kMaking, kReady, kFailed, kEnding };
  struct Template {
    std::string key;
    keeper::v1::MakeRequest shape;
    State state = State::kMaking;
    int64_t since_nanos = 0;
    int64_t used_nanos = 0;  // by this daemon, or when it was found
    std::string error;
    int64_t failed_at = 0;  // MonotonicNanos
    std::shared_ptr<ShimClient> shim;
  };
  using Entries = std::map<std::string, Template>;

  std::string FolderOf(const std::string& id) const { return config_.TemplateDir() + "/" + id; }
  bool Adopt(const std::string& id);
  Entries::iterator FindKey(const std::string& key);
  // Makes room for one more; false if there cannot be.
  bool MakeRoom(uint64_t bytes);
  // Of the same size and handler, but of other files.
  void EndStale(const keeper::v1::MakeRequest& shape, const std::string& key);
  void End(Template* entry);
  void Fail(Template* entry, const std::string& id, const std::string& why);
  void Make(const std::string& id);
  Result<std::shared_ptr<ShimClient>> Spawn(const std::string& id, const std::string& handler);
  void OnMade(const std::string& id, Result<> made);
  void RemoveFolder(const std::string& id) const;
  void Count(const char* outcome) const;

  const Config& config_;
  Shims& shims_;
  Background& background_;
  const FaultPoints& faults_;
  DaemonMetrics* metrics_ = nullptr;
  std::mutex mutex_;
  Entries entries_;  // by id
};

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// NativePod: a pod sandbox of Linux namespaces, held by this process itself: it enters the pod's network namespace and
// makes its IPC and UTS namespaces, so /proc/<pid>/ns/* of this process are the pod's. A pod that shares its PID namespace
// has one child more, which is PID 1 of it (pod_init.h). It serves containerd's Sandbox service, version 1.
//
// A pod with a user namespace: that one, which owns the others, is made with them by a child, and kept by a descriptor
// only. This process enters the others but not the user namespace, which would leave it powerless on the host.
//
// Life cycle: created, started, stopped, shut down. Stop and Shutdown are idempotent and need nobody's cooperation; after
// them nothing of the pod is left but this process, and after Shutdown not that. A Create that failed leaves a process
// that may be in the pod's namespaces already: it can only be shut down. One thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "caisson/pod/v1/pod.pb.h"
#include "oci/id_mapping.h"
#include "shim/pod_init.h"
#include "task/tasks.h"
#include "ttrpc/server.h"

namespace caisson::shim {

inline constexpr char kSandboxOptionsType[] = "caisson.pod.v1.SandboxOptions";

class NativePod {
 public:
  NativePod(std::string id, std::string seccomp_cache_dir, task::Tasks* tasks, std::function<void()> on_shutdown)
      : id_(std::move(id)), seccomp_cache_dir_(std::move(seccomp_cache_dir)), tasks_(tasks), on_shutdown_(std::move(on_shutdown)) {}
  ~NativePod();

  const std::string& id() const { return id_; }
  // Registers the Sandbox service; before the server listens. The pod outlives the server.
  void Register(ttrpc::Server* server);

  // Ends every container and the reaper by force, removes what there is of them. Idempotent.
  Result<> Stop(int64_t deadline_millis);

 private:
  enum class State { kNone, kFailed, kCreated, kReady, kStopped };

  Result<> Create(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options);
  Result<> EnterNamespaces(const std::string& netns_path, const pod::v1::SandboxOptions& options);
  Result<> MakeUserNamespace(const oci::IdMaps& maps, const pod::v1::SandboxOptions& options);
  Result<> MakeShm(int64_t bytes, const oci::IdMaps& maps);
  Result<> Start();
  void OnInitDeath();
  int SandboxPid() const;
  const char* StateName() const;

  const std::string id_, seccomp_cache_dir_;
  task::Tasks* tasks_;
  std::function<void()> on_shutdown_;
  State state_ = State::kNone;
  std::string bundle_;
  bool share_pid_ = false;
  bool shm_attached_ = false;
  UniqueFd shm_;
  UniqueFd user_namespace_;  // valid: the pod has one of its own
  std::optional<PodInit> init_;
  int64_t created_at_nanos_ = 0, exited_at_nanos_ = 0;
  std::vector<std::function<void()>> waiters_;
};

}  // namespace caisson::shim

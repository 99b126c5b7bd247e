// SPDX-License-Identifier: Apache-2.0
//
// NativePod: a pod sandbox of Linux namespaces, held by this process itself: it enters the pod's network namespace and
// makes its IPC and UTS namespaces, so /proc/<pid>/ns/* of this process are the pod's. A pod that shares its PID namespace
// has one child more, which is PID 1 of it (task/pod_init.h).
//
// A pod with a user namespace: that one, which owns the others, is made with them by a child, and kept by a descriptor
// only. This process enters the others but not the user namespace, which would leave it powerless on the host.
//
// Life cycle and threads: sandbox_pod.h. A Create that failed leaves a process that may be in the pod's namespaces already.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"
#include "caisson/pod/v1/pod.pb.h"
#include "oci/id_mapping.h"
#include "shim/oci_runtime.h"
#include "shim/sandbox_pod.h"
#include "task/pod_init.h"
#include "task/pod_shm.h"
#include "task/tasks.h"

namespace caisson::shim {

class NativePod : public SandboxPod {
 public:
  NativePod(std::string id, std::string seccomp_cache_dir, task::Tasks* tasks)
      : SandboxPod(std::move(id)), seccomp_cache_dir_(std::move(seccomp_cache_dir)), tasks_(tasks) {}
  ~NativePod() override;

  void Create(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options, Done done) override {
    done(Make(bundle, netns_path, options));
  }
  void Start(Done done) override { done(StartInit()); }
  Result<> Stop(int64_t deadline_millis) override;
  int SandboxPid() const override;
  std::map<std::string, std::string> Info() const override;

 private:
  Result<> Make(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options);
  Result<> EnterNamespaces(const std::string& netns_path, const pod::v1::SandboxOptions& options);
  Result<> MakeUserNamespace(const oci::IdMaps& maps, const pod::v1::SandboxOptions& options);
  Result<> StartInit();
  Result<> StartRuntimeSandbox();
  Result<> PrepareRuntime(const pod::v1::SandboxOptions& options, task::TasksOptions* tasks);
  void OnInitDeath();

  const std::string seccomp_cache_dir_;
  task::Tasks* tasks_;
  std::string bundle_;
  bool share_pid_ = false;
  task::PodShm shm_;
  UniqueFd user_namespace_;  // valid: the pod has one of its own
  std::optional<task::PodInit> init_;
  std::unique_ptr<OciRuntime> runtime_;  // not null: what makes the containers
};

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
//
// OciRuntime: another project's OCI runtime binary as what makes a native pod's containers (oci/foreign_container.h), and the sandbox
// that such a runtime may want for the pod first: a container that does nothing, of this program itself. One thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "caisson/pod/v1/pod.pb.h"
#include "oci/foreign_container.h"
#include "sys/event_loop.h"

namespace caisson::shim {

class OciRuntime {
 public:
  // `bundle`: the pod's folder. Runs the program once. Errors: that it is not there or does not run.
  static Result<std::unique_ptr<OciRuntime>> Make(const std::string& pod_id, const std::string& bundle, const std::string& shm_path,
                                                  const pod::v1::SandboxOptions& options);

  // As oci::Container::Create; what a dead companion would leave is written down first.
  Result<std::unique_ptr<oci::Container>> Create(oci::CreateOptions options);
  // With the network in place. Nothing where the runtime needs none. `pid_namespace`: the pod's; empty: each container has one.
  Result<> StartSandbox(const std::string& pid_namespace);
  // The pidfd of what ends with the sandbox; -1: there is none.
  int sandbox_pidfd() const { return sandbox_ ? sandbox_->init().pidfd.get() : -1; }
  // SIGKILL to the sandbox and all that is in it, without the runtime.
  void KillSandbox();
  // After all containers. Idempotent.
  Result<> RemoveSandbox(int64_t deadline_millis);

 private:
  OciRuntime() = default;
  std::string SandboxConfig(const std::string& program, const std::string& pid_namespace) const;

  std::string pod_id_, bundle_, cgroup_path_, hostname_;
  oci::ForeignOptions foreign_;
  std::unique_ptr<oci::Container> sandbox_;
};

// Of a dead companion, after its cgroups have been emptied: unmounts what its containers had in their bundles.
void RemoveRuntimeRemains(const std::string& bundle);

}  // namespace caisson::shim

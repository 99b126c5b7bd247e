// SPDX-License-Identifier: Apache-2.0
//
// ForeignPod: a native pod whose containers another project's shim makes, driven as containerd drives it. The namespaces are this process's, as those of any native pod
// (native_pod.h). The shim is started in Create, while this process is still in the host's namespaces (foreign_shims.h).
// Start makes the pod's sandbox container, which runtimes with one sandbox for a pod put the others into: our own program, waiting. Other containers: foreign_tasks.h.
//
// The shim's end, however it comes, is the pod's: its containers are killed by their cgroups and count as killed, why is told by Task and Pod and
// kept in a file of the bundle (vm_end.h), and `on_end` runs. So is its silence: a call that it does not answer in time. What it has made is removed by its
// `delete` (foreign_record.h). One thread, the loop's (sandbox_pod.h).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "shim/foreign_client.h"
#include "shim/foreign_record.h"
#include "shim/foreign_shims.h"
#include "shim/foreign_tasks.h"
#include "shim/native_pod.h"
#include "shim/sandbox_pod.h"
#include "sys/event_loop.h"
#include "task/tasks.h"
#include "ttrpc/server.h"

namespace caisson::shim {

class ForeignPod : public SandboxPod {
 public:
  // `tasks`, which has no containers, reaps what comes to this process; it outlives the pod.
  ForeignPod(std::string id, std::string seccomp_cache_dir, task::Tasks* tasks, std::function<void()> on_end);
  ~ForeignPod() override;

  // What it serves beside Sandbox. Before the server listens; it outlives the server.
  void Register(ttrpc::Server* server, const std::function<void()>& on_shutdown) { containers_.Register(server, on_shutdown); }

  void Create(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options, Done done) override;
  void Start(Done done) override;
  Result<> Stop(int64_t deadline_millis) override;
  int SandboxPid() const override { return native_.SandboxPid(); }
  std::map<std::string, std::string> Info() const override { return {{"shim", options_.runtime().program()}}; }

 private:
  Result<> Prepare(const std::string& bundle, const pod::v1::SandboxOptions& options);
  Result<> MakeSandboxBundle();
  Result<> ListenForEvents();
  void OnSandboxEnd(uint32_t status);
  // The pod has ended by itself.
  void EndWith(const VmEnd& end);
  Result<> End(const std::string& why, const VmEnd& end, int64_t deadline_millis);
  std::string SandboxBundle() const { return bundle_ + "/sandbox/" + id(); }

  task::Tasks* tasks_;
  sys::EventLoop* loop_;
  std::function<void()> on_end_;
  NativePod native_;
  ForeignShims shims_;
  ForeignTasks containers_;
  pod::v1::SandboxOptions options_;
  std::string bundle_, events_path_;
  std::unique_ptr<ForeignRecord> record_;
  std::shared_ptr<ForeignClient> shim_;  // the sandbox container's
  std::unique_ptr<ttrpc::Server> events_;
  UniqueFd folder_;
};

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
//
// SandboxPod: a pod as containerd's Sandbox service (version 1) sees it, whatever it is made of: namespaces (native_pod.h) or a
// virtual machine (vm_pod.h). RegisterSandboxService serves it.
//
// Life cycle: created, started, stopped, shut down. Stop is idempotent and needs nobody's cooperation; after it nothing of the
// pod is left but this process. A Create that failed leaves a pod that can only be shut down. One thread, the loop's.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "caisson/pod/v1/pod.pb.h"
#include "caisson/pod/v1/pod_config.pb.h"
#include "caisson/wkt/wkt.pb.h"
#include "ttrpc/server.h"

namespace caisson::shim {

inline constexpr char kSandboxOptionsType[] = "caisson.pod.v1.SandboxOptions";
inline constexpr char kPodConfigType[] = "runtime.v1.PodSandboxConfig";  // the CRI's, of other clients than caissond
inline constexpr int64_t kStopMillis = 10'000;

class SandboxPod {
 public:
  using Done = std::function<void(Result<>)>;

  explicit SandboxPod(std::string id) : id_(std::move(id)) {}
  virtual ~SandboxPod() = default;

  const std::string& id() const { return id_; }
  bool stopped() const { return state_ == State::kStopped; }
  // Made, and not stopped yet.
  bool active() const { return state_ == State::kCreated || state_ == State::kReady; }

  virtual void Create(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options, Done done) = 0;
  virtual void Start(Done done) = 0;
  // Ends every container by force, removes what there is of the pod.
  virtual Result<> Stop(int64_t deadline_millis) = 0;
  // What /proc/<pid>/ns/pid of a container that shares the pod's PID namespace is made of.
  virtual int SandboxPid() const = 0;
  // What the client is told of: SandboxPid, if that is a process of the host's.
  virtual int ToldPid() const { return SandboxPid(); }
  // What CreateSandboxRequest.options asks for.
  virtual Result<pod::v1::SandboxOptions> ReadOptions(const wkt::Any& any);
  // For SandboxStatus.
  virtual std::map<std::string, std::string> Info() const { return {}; }

 protected:
  enum class State { kNone, kFailed, kCreated, kReady, kStopped };

  // kFailedPrecondition or kAlreadyExists unless Create may begin.
  Result<> CheckFresh() const;
  // The state is kStopped now; those who wait hear of it.
  void SetStopped();

  State state_ = State::kNone;
  int64_t created_at_nanos_ = 0;

 private:
  friend void RegisterSandboxService(ttrpc::Server* server, SandboxPod* pod, std::function<void()> on_shutdown);

  const std::string id_;
  int64_t exited_at_nanos_ = 0;
  std::vector<std::function<void()>> waiters_;
};

// The CRI's configuration, of CreateSandboxRequest.options. kInvalidArgument: it is something else.
Result<pod::v1::PodConfig> ReadPodConfig(const wkt::Any& any);
// What that asks for. kUnimplemented for what only caissond's own options can say.
Result<pod::v1::SandboxOptions> OptionsOf(const pod::v1::PodConfig& config);

// Before the server listens. The pod outlives the server; `on_shutdown` runs when the answer to Shutdown is on its way.
void RegisterSandboxService(ttrpc::Server* server, SandboxPod* pod, std::function<void()> on_shutdown);

}  // namespace caisson::shim

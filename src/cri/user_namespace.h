// SPDX-License-Identifier: Apache-2.0
//
// User namespaces of pods (CRI: NamespaceOption.userns_options; pods with hostUsers: false): what is accepted, and
// whether this host can. A pod has one user namespace, made by its companion, or none; so have all its containers.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "base/clock.h"
#include "caisson/pod/v1/pod.pb.h"
#include "cri/config.h"
#include "cri/v1/api.pb.h"

namespace caisson::cri {

bool HasUserNamespace(const runtime::v1::NamespaceOption& options);
// The same of a pod's configuration.
bool HasUserNamespace(const runtime::v1::PodSandboxConfig& pod);
// What the pod's configuration says of it; the default message where it says nothing.
const runtime::v1::UserNamespace& UserNamespaceOf(const runtime::v1::PodSandboxConfig& pod);

// kInvalidArgument with the reason unless the options are what a pod may have: mode NODE without mappings, or mode POD
// with one mapping, the same for users and groups, that has a root which is not the host's; and then the pod's own IPC and
// no PID namespace of the host's.
Result<> CheckUserNamespace(const runtime::v1::PodSandboxConfig& pod);
// kInvalidArgument unless the container names the user namespace that its pod has.
Result<> CheckSameUserNamespace(const runtime::v1::PodSandboxConfig& pod, const runtime::v1::ContainerConfig& container);

using IdMappings = google::protobuf::RepeatedPtrField<runtime::v1::IDMapping>;
// kInvalidArgument naming `what` for ranges that are empty, go past the last id or share an id.
Result<> CheckIdMappings(const IdMappings& mappings, const std::string& what);
// What `id` is on the host; nothing if no range has it.
std::optional<uint32_t> ToHostId(const IdMappings& mappings, uint32_t id);
// kInvalidArgument if a user or group of the container has no id in its pod's user namespace.
Result<> CheckUserIsMapped(const runtime::v1::PodSandboxConfig& pod, const runtime::v1::LinuxContainerUser& user);
// The two ids on the host of what belongs to the image's `uid` and `gid`; for ids that the pod does not have, those of its
// root.
struct HostIds {
  uint32_t uid = 0, gid = 0;
};
HostIds HostIdsOf(const runtime::v1::PodSandboxConfig& pod, uint32_t uid, uint32_t gid);

// The mappings as the companion takes them.
void SetMaps(const runtime::v1::UserNamespace& user_namespace, pod::v1::SandboxOptions* options);

// What each handler's companion says of this host: asked until it is yes, but not all the time. Thread-safe.
class UserNamespaceSupport {
 public:
  // A "no" may come of a full disk: it lasts so long.
  static constexpr int64_t kAgainNanos = 60 * kNanosPerSecond;

  explicit UserNamespaceSupport(const Config& config, std::function<int64_t()> clock = MonotonicNanos)
      : config_(config), clock_(std::move(clock)) {}
  // kFailedPrecondition with what is missing. A call that asks runs the companion, for some milliseconds.
  Result<> Check(const std::string& handler);

 private:
  struct Answer {
    Result<> result;
    int64_t asked_at = 0;
  };
  Result<> Probe(const std::string& handler);

  const Config& config_;
  const std::function<int64_t()> clock_;
  std::mutex mutex_;
  std::map<std::string, Answer> known_;  // by handler
};

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
//
// VM pods as the daemon sees them: which pods are VMs, what such a pod and its containers may ask for, how large its VM is.
// What was decided when a pod was made is in its record (PodRecord.vm), whatever the configuration says later.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "base/vm_size.h"
#include "caisson/pod/v1/pod.pb.h"
#include "cri/config.h"
#include "cri/pod_index.h"
#include "cri/v1/api.pb.h"

namespace caisson::cri {

// What the host has to give until a guest has booted: its own pages and, emulated, the translated code (215 MiB measured).
inline constexpr uint64_t kLeastPodBytes = uint64_t{128} << 20, kLeastEmulatedPodBytes = uint64_t{224} << 20;

// The handler of a new pod: the one it names, else that of untrusted pods if it is one and there is one, else the default.
std::string ResolveHandler(const Config& config, const runtime::v1::RunPodSandboxRequest& request);

// kFailedPrecondition naming what a handler of VMs needs and this host does not have, or has of another version.
Result<> CheckVmHandler(const std::string& name, const HandlerConfig& handler);
// kInvalidArgument with a sentence for what only a pod of processes can have, and for a pod in which no VM can boot.
Result<> CheckVmPod(const Config& config, const std::string& handler, const std::string& accelerator,
                    const runtime::v1::PodSandboxConfig& pod);
// The same for a container of such a pod.
Result<> CheckVmContainer(const runtime::v1::ContainerConfig& container);

// So many processors at least a VM can be given while it runs, if the host has as many. Those that stand still cost the host some
// hundred KiB each.
inline constexpr uint32_t kPluggableVcpus = 8;

struct VmSize {
  uint32_t vcpus = 1;
  uint64_t memory_bytes = 0;
  // Of a pod that is made with this size.
  uint32_t max_vcpus = 1;
  uint64_t max_memory_bytes = 0;
};
// What a machine can have of the host at most.
struct HostSize {
  uint32_t processors = 1;
  uint64_t memory_bytes = 0;  // 0: not known
};
HostSize ReadHostSize();
// Of a pod that has been checked.
VmSize VmSizeOf(const HandlerConfig& handler, const runtime::v1::PodSandboxConfig& pod, const HostSize& host);
// Of the VMM's cgroup on the host: the pod's CPU limit and its overhead's. No quota: none.
pod::v1::CpuLimit VmCpuLimitOf(const runtime::v1::PodSandboxConfig& pod);
// What makes a running pod's VM what a new one of its `config` would be. kInvalidArgument: it could not boot.
Result<pod::v1::ResizeRequest> VmResizeOf(const Config& config, const PodRecord& record, const HostSize& host);
// The user and group that a pod's VMM runs as: the same for the same pod, most probably different for different ones.
uint32_t VmmIdOf(const HandlerConfig& handler, const std::string& pod_id);
// What the companion is told, of a record that has its `vm`.
pod::v1::VmOptions VmOptionsOf(const Config& config, const PodRecord& record);

// "kvm" or "tcg" for each handler: as configured, or what its companion's probe finds, once. Thread-safe.
class VmAccelerators {
 public:
  explicit VmAccelerators(const Config& config) : config_(config) {}
  // The first call for a handler runs the companion, for some milliseconds.
  std::string Of(const std::string& handler);

 private:
  std::string Probe(const std::string& handler);

  const Config& config_;
  std::mutex mutex_;
  std::map<std::string, std::string> known_;
};

}  // namespace caisson::cri

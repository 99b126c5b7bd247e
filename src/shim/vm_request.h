// SPDX-License-Identifier: Apache-2.0
//
// A pod that is a virtual machine, asked for by a client that knows nothing of such (containerd, CRI-O): by the OCI configuration of its
// first container, or by the CRI's of the pod. And what of the configurations of the others is not as caissond would have written it. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "caisson/pod/v1/pod.pb.h"
#include "caisson/pod/v1/pod_config.pb.h"
#include "shim/shim_settings.h"

namespace caisson::shim {

// What the machine is made of.
struct VmRequest {
  bool sandbox = false;  // the container only holds the pod (a pause container): the machine stands for it
  bool crio = false;     // its containers' pids have to be some of the host's
  std::string netns_path;  // empty: a new network namespace
  pod::v1::SandboxOptions options;
};

struct HostFacts {
  std::string name;  // its host name, for a pod that has none
  uint32_t processors = 1;
  bool kvm = false;      // it runs guests at speed
  bool systemd = false;  // which a cgroupsPath of its kind is meant for then, whatever the client says
};

// Of the pod `group`. `systemd_cgroup`: the configuration's cgroupsPath is one of systemd's. Errors: kInvalidArgument for what does not
// parse, kFailedPrecondition with a sentence for a namespace of the host's.
Result<VmRequest> MakeVmRequest(std::string_view config_json, const std::string& group, bool systemd_cgroup, const ShimSettings& settings, const HostFacts& host);

// The same for a client that has no container for it (containerd 2.x with `sandboxer = "shim"`): completes `options`, which are of the CRI's
// `config` already (sandbox_pod.h).
Result<> CompleteOptions(const pod::v1::PodConfig& config, const std::string& group, const ShimSettings& settings, const HostFacts& host, pod::v1::SandboxOptions* options);

// What a container's configuration may name of its pod.
struct PodOnHost {
  std::string id;
  uint32_t pid = 0;        // that was told of its sandbox
  uint32_t guest_pid = 0;  // what that is in the guest
  bool sandbox = false;    // VmRequest::sandbox
};
// The pod's /dev/shm and its PID namespace become the guest's own, sysctls go where the pod has been given them (`sandbox` false).
// kFailedPrecondition for a mount that is to be shared with the host's.
Result<std::string> AdaptConfig(std::string_view config_json, const PodOnHost& pod);

}  // namespace caisson::shim

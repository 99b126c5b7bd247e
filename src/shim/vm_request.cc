// SPDX-License-Identifier: Apache-2.0
#include "shim/vm_request.h"

#include <sched.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/bad.h"
#include "base/cgroup_path.h"
#include "base/json.h"
#include "base/strings.h"
#include "oci/cgroup_systemd.h"
#include "oci/spec.h"

namespace caisson::shim {
namespace {

// Whose value "sandbox" says that it only holds the pod.
constexpr char kCrioAnnotation[] = "io.kubernetes.cri-o.ContainerType";
constexpr const char* kKindAnnotations[] = {"io.kubernetes.cri.container-type", kCrioAnnotation};
// The pod's limits as containerd's CRI adds them up; the sandbox's container has none itself.
constexpr char kMemoryAnnotation[] = "io.kubernetes.cri.sandbox-memory", kQuotaAnnotation[] = "io.kubernetes.cri.sandbox-cpu-quota",
               kPeriodAnnotation[] = "io.kubernetes.cri.sandbox-cpu-period";

uint64_t NumberIn(const oci::Spec& spec, const char* annotation) {
  auto found = spec.annotations.find(annotation);
  auto number = found == spec.annotations.end() ? Result<int64_t>(0) : ParseInt64(found->second);
  return number && *number > 0 ? static_cast<uint64_t>(*number) : 0;
}

uint64_t PositiveOf(const std::optional<int64_t>& value) { return value && *value > 0 ? static_cast<uint64_t>(*value) : 0; }

bool OnlyHoldsThePod(const oci::Spec& spec) {
  return std::any_of(std::begin(kKindAnnotations), std::end(kKindAnnotations), [&](const char* name) {
    auto found = spec.annotations.find(name);
    return found != spec.annotations.end() && found->second == "sandbox";
  });
}

Error HasTheHosts(const std::string& group, const char* what) {
  return MakeError(Code::kFailedPrecondition, "pod '{}' is a virtual machine and cannot have the host's {}; use the runtime io.containerd.caisson.v2", group, what);
}

Result<> CheckNamespaces(const oci::Spec& spec, const std::string& group) {
  for (auto [flag, what] : {std::pair(CLONE_NEWNET, "network"), {CLONE_NEWPID, "PID namespace"}, {CLONE_NEWIPC, "IPC namespace"}}) {
    if (spec.FindNamespace(flag) == nullptr) return HasTheHosts(group, what);
  }
  if (spec.FindNamespace(CLONE_NEWUSER) == nullptr) return {};
  return MakeError(Code::kFailedPrecondition, "pod '{}' is a virtual machine and cannot have a user namespace of the host's", group);
}

// Of the whole pod; 0: none.
struct Limits {
  uint64_t memory = 0;             // bytes
  uint64_t quota = 0, period = 0;  // microseconds
};

Limits LimitsOf(const oci::Spec& spec) {
  const auto used = spec.resources.memory.value_or(oci::Resources::Memory());
  const auto cpu = spec.resources.cpu.value_or(oci::Resources::Cpu());
  Limits limits{PositiveOf(used.limit), PositiveOf(cpu.quota), cpu.period.value_or(0)};
  if (limits.memory == 0) limits.memory = NumberIn(spec, kMemoryAnnotation);
  if (limits.quota == 0) {
    limits.quota = NumberIn(spec, kQuotaAnnotation);
    limits.period = NumberIn(spec, kPeriodAnnotation);
  }
  return limits;
}

void FillMachine(const Limits& limits, const std::string& group, const ShimSettings& settings, const HostFacts& host, pod::v1::VmOptions* vm) {
  vm->set_vmm("qemu");
  vm->set_program(settings.vmm_path);
  vm->set_kernel(settings.kernel);
  vm->set_initrd(settings.initrd);
  vm->set_machine(settings.machine);
  vm->set_accelerator(settings.accelerator != "auto" ? settings.accelerator : host.kvm ? "kvm" : "tcg");
  vm->set_vcpus(GuestVcpusOf(limits.quota, limits.period, static_cast<uint32_t>(settings.vcpus), host.processors));
  vm->set_memory_bytes(limits.memory > 0 ? GuestMemoryOf(limits.memory) : RoundGuestMemory(static_cast<uint64_t>(settings.memory_bytes)));
  vm->set_uid(VmmIdOf(settings.first_vmm_id, group));
  vm->set_gid(vm->uid());
}

bool Says(const Json& mount, std::string_view word) {
  auto options = mount.value("options", Json::array());
  return std::any_of(options.begin(), options.end(), [&](const Json& option) { return option == word; });
}

Result<> AdaptPodMounts(Json* spec, const PodOnHost& pod) {
  for (auto& mount : (*spec)["mounts"]) {
    std::string destination = mount.value("destination", ""), source = mount.value("source", "");
    if (Says(mount, "rshared") || Says(mount, "shared")) {
      return MakeError(Code::kFailedPrecondition, "mount '{}': what is mounted in a VM cannot propagate to the host", destination);
    }
    // The client's tmpfs for the pod; the guest has one of its own.
    if (destination != "/dev/shm" || !source.ends_with("/" + pod.id + "/shm")) continue;
    mount["type"] = "caisson-shm";
    mount["source"] = "shm";
    mount["options"] = {"nosuid", "noexec", "nodev"};
  }
  return {};
}

Result<std::string> AdaptSpec(Json* spec, const PodOnHost& pod) {
  TRY(AdaptPodMounts(spec, pod));
  Json& linux = spec->at("linux");
  for (auto& space : linux["namespaces"]) {
    if (space.value("type", "") != "pid" || space.value("path", "") != fmt::format("/proc/{}/ns/pid", pod.pid)) continue;
    space["path"] = fmt::format("/proc/{}/ns/pid", pod.guest_pid);
  }
  if (!pod.sandbox) linux.erase("sysctl");
  return DumpJson(*spec);
}

}  // namespace

Result<VmRequest> MakeVmRequest(std::string_view config_json, const std::string& group, bool systemd_cgroup, const ShimSettings& settings, const HostFacts& host) {
  oci::Spec spec = TRY(oci::ParseSpec(config_json));
  TRY(CheckNamespaces(spec, group));
  VmRequest request;
  request.sandbox = OnlyHoldsThePod(spec);
  request.crio = spec.annotations.contains(kCrioAnnotation);
  request.netns_path = spec.FindNamespace(CLONE_NEWNET)->path;
  request.options.set_hostname(spec.hostname.empty() ? host.name : spec.hostname);
  // The namespace of the pod's is there for whichever container wants it.
  request.options.set_share_pid(request.sandbox);
  for (const auto& [name, value] : spec.sysctl) (*request.options.mutable_sysctls())[name] = value;
  request.options.set_systemd_cgroup(systemd_cgroup || (host.systemd && oci::IsSystemdPath(spec.cgroups_path)));
  auto* vm = request.options.mutable_vm();
  FillMachine(LimitsOf(spec), group, settings, host, vm);
  vm->set_cgroup_path(spec.cgroups_path);
  return request;
}

Result<> CompleteOptions(const pod::v1::PodConfig& config, const std::string& group, const ShimSettings& settings, const HostFacts& host, pod::v1::SandboxOptions* options) {
  if (options->host_network()) return HasTheHosts(group, "network");
  if (!options->share_pid()) return HasTheHosts(group, "PID namespace");
  if (options->host_ipc()) return HasTheHosts(group, "IPC namespace");
  const auto& resources = config.linux().resources();
  auto positive = [](int64_t value) { return static_cast<uint64_t>(std::max<int64_t>(0, value)); };
  auto* vm = options->mutable_vm();
  FillMachine({positive(resources.memory_limit_in_bytes()), positive(resources.cpu_quota()), positive(resources.cpu_period())}, group, settings, host, vm);
  // As containerd names a sandbox container's.
  const std::string& parent = config.linux().cgroup_parent();
  options->set_systemd_cgroup(host.systemd && parent.ends_with(".slice"));
  if (!parent.empty()) vm->set_cgroup_path(CgroupsPath(parent, options->systemd_cgroup(), "cri-containerd", group));
  return {};
}

Result<std::string> AdaptConfig(std::string_view config_json, const PodOnHost& pod) {
  Json spec = TRY(ParseJson(config_json));
  // What is inside is checked by whoever parses the result; here it need only not be of another type.
  try {
    return AdaptSpec(&spec, pod);
  } catch (const Json::exception& e) {
    return Bad("config.json: {}", e.what());
  }
}

}  // namespace caisson::shim

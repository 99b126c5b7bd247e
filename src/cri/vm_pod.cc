// SPDX-License-Identifier: Apache-2.0
#include "cri/vm_pod.h"

#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "base/log.h"
#include "base/strings.h"
#include "cri/container_spec.h"
#include "cri/pod_teardown.h"
#include "cri/shim_client.h"
#include "cri/user_namespace.h"
#include "cri/version.h"
#include "sys/guest_image.h"
#include "sys/path.h"

namespace caisson::cri {

namespace v1 = runtime::v1;

namespace {

constexpr char kTrustedAnnotation[] = "io.kubernetes.cri-o.TrustedSandbox";
constexpr int64_t kAcceleratorProbeMillis = 10'000;
constexpr size_t kAcceleratorLogBytes = 4096;
constexpr uint64_t kPlugStep = uint64_t{128} << 20;  // vmm::kMemoryBlockBytes
constexpr uint64_t kMiB = 1 << 20;

uint64_t Positive(int64_t value) { return value > 0 ? static_cast<uint64_t>(value) : 0; }

// Of a CPU limit, in microseconds; where none is said the kernel's.
uint64_t PeriodOf(const v1::LinuxContainerResources& resources) {
  return resources.cpu_period() > 0 ? static_cast<uint64_t>(resources.cpu_period()) : 100'000;
}

// A handler to name to who needs the host's namespaces.
std::string NativeHandler(const Config& config) {
  auto chosen = config.handlers.find(config.default_handler);
  if (chosen != config.handlers.end() && !chosen->second.IsVm()) return chosen->first;
  auto native = std::find_if(config.handlers.begin(), config.handlers.end(), [](const auto& one) { return !one.second.IsVm(); });
  return native == config.handlers.end() ? "caisson" : native->first;
}

bool IsReadable(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && access(path.c_str(), R_OK) == 0;
}

// A block device becomes a disk of the VM's.
Result<> CheckVmDevice(const std::string& container, const v1::Device& device) {
  struct stat info {};
  if (stat(device.host_path().c_str(), &info) != 0) return ErrnoError("device '{}'", device.host_path());
  if (S_ISBLK(info.st_mode)) return {};
  return MakeError(Code::kUnimplemented, "container '{}' asks for the host's device '{}', which a VM does not have; of the host's devices it can be given block devices",
                   container, device.host_path());
}

}  // namespace

std::string ResolveHandler(const Config& config, const v1::RunPodSandboxRequest& request) {
  if (!request.runtime_handler().empty()) return request.runtime_handler();
  if (!config.untrusted_handler.empty()) {
    auto trusted = request.config().annotations().find(kTrustedAnnotation);
    if (trusted != request.config().annotations().end() && trusted->second == "false") return config.untrusted_handler;
  }
  return config.default_handler;
}

Result<> CheckVmHandler(const std::string& name, const HandlerConfig& handler) {
  for (const std::string& path : {handler.kernel, handler.initrd}) {
    if (IsReadable(path)) continue;
    return MakeError(Code::kFailedPrecondition, "handler '{}' runs pods in VMs and needs the file '{}', which is not there (package caisson-guest)",
                     name, path);
  }
  TRY(sys::CheckGuestImage(handler.kernel, handler.initrd, kVersion));
  if (handler.vmm_path.empty() || access(handler.vmm_path.c_str(), X_OK) == 0) return {};
  return ErrnoError("the VMM '{}' of handler '{}'", handler.vmm_path, name);
}

Result<> CheckVmPod(const Config& config, const std::string& handler, const std::string& accelerator,
                    const v1::PodSandboxConfig& pod) {
  const auto& namespaces = pod.linux().security_context().namespace_options();
  for (auto [mode, what] : {std::pair(namespaces.network(), "network"), {namespaces.pid(), "PID"}, {namespaces.ipc(), "IPC"}}) {
    if (mode != v1::NODE) continue;
    return MakeError(Code::kInvalidArgument, "a pod of handler '{}' is a virtual machine and cannot have the host's {} namespace; use handler '{}'",
                     handler, what, NativeHandler(config));
  }
  uint64_t limit = Positive(pod.linux().resources().memory_limit_in_bytes());
  if (limit == 0) return {};
  uint64_t overhead = Positive(pod.linux().overhead().memory_limit_in_bytes());
  const uint64_t least = accelerator == "kvm" ? kLeastPodBytes : kLeastEmulatedPodBytes;
  if (limit >= least || overhead >= least - limit) return {};
  return MakeError(Code::kInvalidArgument,
                   "the pod may use {} MiB of memory ({} of its limits, {} of its RuntimeClass's overhead), and a VM of handler '{}' ({}) needs {} MiB to boot",
                   (limit + overhead) / kMiB, limit / kMiB, overhead / kMiB, handler, accelerator, least / kMiB);
}

Result<> CheckVmContainer(const v1::ContainerConfig& container) {
  const std::string& name = container.metadata().name();
  for (const auto& device : container.devices()) TRY(CheckVmDevice(name, device));
  if (container.cdi_devices_size() > 0) {
    return MakeError(Code::kUnimplemented, "container '{}' asks for the CDI device '{}', which a VM does not have", name,
                     container.cdi_devices(0).name());
  }
  for (const auto& mount : container.mounts()) {
    struct stat info {};
    if (!mount.host_path().empty() && stat(mount.host_path().c_str(), &info) == 0 && (S_ISBLK(info.st_mode) || S_ISCHR(info.st_mode))) {
      return MakeError(Code::kUnimplemented, "mount '{}': '{}' is a device of the host's; a VM gets block devices as devices (volumeDevices), and no others",
                       mount.container_path(), mount.host_path());
    }
    if (mount.propagation() == v1::PROPAGATION_BIDIRECTIONAL) {
      return MakeError(Code::kUnimplemented, "mount '{}': what is mounted in a VM cannot propagate to the host", mount.container_path());
    }
    if (mount.uidmappings_size() > 0 || mount.gidmappings_size() > 0) {
      return MakeError(Code::kUnimplemented, "mount '{}': id-mapped volumes of VMs are not supported yet", mount.container_path());
    }
  }
  return {};
}

HostSize ReadHostSize() {
  HostSize host{std::max(1u, std::thread::hardware_concurrency()), 0};
  struct sysinfo info {};
  if (sysinfo(&info) == 0) host.memory_bytes = uint64_t{info.totalram} * info.mem_unit;
  return host;
}

VmSize VmSizeOf(const HandlerConfig& handler, const v1::PodSandboxConfig& pod, const HostSize& host) {
  const auto& resources = pod.linux().resources();
  VmSize size{static_cast<uint32_t>(handler.vcpus), static_cast<uint64_t>(handler.memory_bytes)};
  uint64_t quota = Positive(resources.cpu_quota()), period = PeriodOf(resources);
  size.vcpus = GuestVcpusOf(quota, period, size.vcpus, host.processors);
  uint64_t limit = Positive(resources.memory_limit_in_bytes());
  size.memory_bytes = limit > 0 ? GuestMemoryOf(limit) : RoundGuestMemory(size.memory_bytes);
  size.max_vcpus = std::max(size.vcpus, std::min(host.processors, kPluggableVcpus));
  // Whole blocks: what is rounded up when it is plugged in is there.
  if (handler.machine == "q35") size.max_memory_bytes = size.memory_bytes + (host.memory_bytes > size.memory_bytes ? host.memory_bytes - size.memory_bytes : 0) / kPlugStep * kPlugStep;
  return size;
}

pod::v1::CpuLimit VmCpuLimitOf(const v1::PodSandboxConfig& pod) {
  const auto &resources = pod.linux().resources(), &overhead = pod.linux().overhead();
  pod::v1::CpuLimit limit;
  uint64_t quota = Positive(resources.cpu_quota()), period = PeriodOf(resources);
  if (quota == 0) return limit;
  double more = static_cast<double>(Positive(overhead.cpu_quota())) / static_cast<double>(PeriodOf(overhead));
  limit.set_quota(static_cast<int64_t>(std::min(static_cast<double>(quota) + more * static_cast<double>(period), 1e15)));
  limit.set_period(period);
  return limit;
}

Result<pod::v1::ResizeRequest> VmResizeOf(const Config& config, const PodRecord& record, const HostSize& host) {
  auto found = config.handlers.find(record.resolved_handler());
  const HandlerConfig handler = found == config.handlers.end() ? DefaultHandler(kVmHandler) : found->second;
  TRY(CheckVmPod(config, record.resolved_handler(), record.vm().accelerator(), record.config()));
  VmSize size = VmSizeOf(handler, record.config(), host);
  pod::v1::ResizeRequest request;
  *request.mutable_cpu_limit() = VmCpuLimitOf(record.config());
  // What the handler's configuration says of pods without a limit may be another now.
  request.set_vcpus(request.cpu_limit().quota() > 0 ? size.vcpus : std::min(size.vcpus, record.vm().max_vcpus()));
  if (uint64_t limit = Positive(record.config().linux().resources().memory_limit_in_bytes()); limit > 0) {
    request.set_memory_bytes(size.memory_bytes);
    request.set_memory_limit_bytes(static_cast<int64_t>(limit));
  }
  return request;
}

uint32_t VmmIdOf(const HandlerConfig& handler, const std::string& pod_id) {
  return caisson::VmmIdOf(handler.first_vmm_id, pod_id);
}

pod::v1::VmOptions VmOptionsOf(const Config& config, const PodRecord& record) {
  auto found = config.handlers.find(record.resolved_handler());
  const HandlerConfig handler = found == config.handlers.end() ? DefaultHandler(kVmHandler) : found->second;
  pod::v1::VmOptions options;
  options.set_vmm(handler.vmm);
  options.set_program(handler.vmm_path);
  options.set_kernel(handler.kernel);
  options.set_initrd(handler.initrd);
  options.set_accelerator(record.vm().accelerator());
  options.set_vcpus(record.vm().vcpus());
  options.set_memory_bytes(record.vm().memory_bytes());
  options.set_max_vcpus(record.vm().max_vcpus());
  options.set_machine(record.vm().machine());
  options.set_max_memory_bytes(record.vm().max_memory_bytes());
  if (auto limit = VmCpuLimitOf(record.config()); limit.quota() > 0) *options.mutable_cpu_limit() = limit;
  options.set_cgroup_path(CgroupPath(record.config().linux().cgroup_parent(), record.id(), record.systemd_cgroup()));
  options.set_uid(record.vm().vmm_id());
  options.set_gid(record.vm().vmm_id());
  options.set_debug(record.vm().debug());
  return options;
}

std::string VmAccelerators::Of(const std::string& handler) {
  auto configured = config_.handlers.find(handler);
  if (configured != config_.handlers.end() && configured->second.accelerator != "auto") return configured->second.accelerator;
  std::lock_guard lock(mutex_);
  auto [known, first] = known_.try_emplace(handler);
  if (first) known->second = Probe(handler);
  return known->second;
}

std::string VmAccelerators::Probe(const std::string& handler) {
  std::string log_path = fmt::format("{}/probe-kvm-{}.log", config_.state, handler);
  unlink(log_path.c_str());
  auto program = FindCompanion(config_, handler);
  auto ran = program ? RunCompanionCommand(*program, {"probe", "--accelerator", "kvm"}, log_path, kAcceleratorProbeMillis) : Result<>(std::move(program.error()));
  auto text = sys::ReadFile(log_path, kAcceleratorLogBytes);
  unlink(log_path.c_str());
  std::string said = text ? std::string(Trim(*text)) : std::string();
  said = said.substr(said.rfind('\n') + 1);
  if (size_t reason = said.find("msg="); reason != std::string::npos) said = said.substr(reason + 4);
  if (ran) {
    log::Info("handler '{}': VMs run on KVM", handler);
    return "kvm";
  }
  log::Info("handler '{}': VMs are emulated (tcg): {}", handler, said.empty() ? ran.error().message : said);
  return "tcg";
}

}  // namespace caisson::cri

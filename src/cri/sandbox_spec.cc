// SPDX-License-Identifier: Apache-2.0
#include "cri/sandbox_spec.h"

#include <sys/utsname.h>

#include "base/limits.h"
#include "base/strings.h"
#include "cri/user_namespace.h"
#include "sys/sysctl.h"

namespace caisson::cri {

namespace v1 = runtime::v1;

namespace {

// hostname(7): letters, digits and dashes between dots; the kernel takes 64 bytes.
bool ValidHostname(const std::string& name) {
  if (name.size() > 64) return false;
  for (char c : name) {
    if (!isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '.' && c != '_') return false;
  }
  return true;
}

std::string HostsName() {
  utsname name{};
  uname(&name);
  return name.nodename;
}

}  // namespace

Result<> CheckCgroupParent(const std::string& parent, bool systemd_cgroup) {
  if (parent.size() > limits::kPathBytes || parent.find('\0') != std::string::npos || parent.find('\n') != std::string::npos) {
    return MakeError(Code::kInvalidArgument, "cgroup_parent '{}…' cannot be a path", parent.substr(0, 64));
  }
  for (std::string_view part : Split(parent, '/')) {
    if (part == ".." || part == ".") return MakeError(Code::kInvalidArgument, "cgroup_parent '{}' has a '{}'", parent, part);
  }
  if (systemd_cgroup && !parent.empty() && !parent.ends_with(".slice")) {
    return MakeError(Code::kInvalidArgument, "cgroup_parent '{}' is no slice, but cgroup_driver is systemd (does the kubelet use cgroupfs?)",
                     parent);
  }
  return {};
}

Result<> CheckSandboxConfig(const v1::PodSandboxConfig& pod, bool systemd_cgroup) {
  const auto& namespaces = pod.linux().security_context().namespace_options();
  TRY(CheckUserNamespace(pod));
  if (namespaces.network() != v1::POD && namespaces.network() != v1::NODE) {
    return MakeError(Code::kInvalidArgument, "a pod's network is its own or the node's, not {}", v1::NamespaceMode_Name(namespaces.network()));
  }
  if (!ValidHostname(pod.hostname())) return MakeError(Code::kInvalidArgument, "'{}' is no hostname", pod.hostname().substr(0, 80));
  TRY(CheckCgroupParent(pod.linux().cgroup_parent(), systemd_cgroup));
  for (const auto& [name, value] : pod.linux().sysctls()) {
    TRY(sys::CheckPodSysctl(name, value, namespaces.network() == v1::NODE, namespaces.ipc() == v1::NODE));
  }
  return {};
}

pod::v1::SandboxOptions SandboxOptionsOf(const Config& config, const v1::PodSandboxConfig& pod, bool systemd_cgroup) {
  const auto& namespaces = pod.linux().security_context().namespace_options();
  pod::v1::SandboxOptions options;
  options.set_host_network(namespaces.network() == v1::NODE);
  options.set_host_ipc(namespaces.ipc() == v1::NODE);
  options.set_share_pid(namespaces.pid() == v1::POD);
  // With the host's network comes the host's name (CRI: PodSandboxConfig.hostname).
  if (!options.host_network()) options.set_hostname(pod.hostname().empty() ? HostsName() : pod.hostname());
  for (const auto& [name, value] : pod.linux().sysctls()) (*options.mutable_sysctls())[name] = value;
  if (!options.host_network()) {
    auto& sysctls = *options.mutable_sysctls();
    if (config.containers.unprivileged_ports) sysctls.insert({"net.ipv4.ip_unprivileged_port_start", "0"});
    // Groups that the pod's user namespace does not have cannot be said in there.
    uint32_t groups = HasUserNamespace(pod) ? namespaces.userns_options().gids(0).length() : 1u << 31;
    if (config.containers.unprivileged_icmp) sysctls.insert({"net.ipv4.ping_group_range", fmt::format("0 {}", groups - 1)});
  }
  if (HasUserNamespace(pod)) SetMaps(namespaces.userns_options(), &options);
  options.set_shm_bytes(config.containers.shm_bytes);
  options.set_cgroup_parent(pod.linux().cgroup_parent());
  options.set_systemd_cgroup(systemd_cgroup);
  return options;
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "cri/container_spec.h"

#include <algorithm>
#include <iterator>

#include "base/json.h"
#include "base/limits.h"
#include "cri/capabilities.h"
#include "cri/cdi.h"
#include "cri/image_user.h"
#include "cri/sandbox_spec.h"
#include "cri/seccomp_profile.h"
#include "cri/spec_parts.h"
#include "cri/user_namespace.h"
#include "cri/vm_pod.h"
#include "sys/path.h"

namespace caisson::cri {

using nlohmann::json;
namespace v1 = runtime::v1;

namespace {

json Namespace(const char* type, const std::string& path = "") {
  json space = {{"type", type}};
  if (!path.empty()) space["path"] = path;
  return space;
}

// The pod's namespaces are those of its companion (or, for PID, of its reaper).
Result<json> NamespacesOf(const ContainerSpecInputs& inputs) {
  const auto& options = inputs.container.config().linux().security_context().namespace_options();
  const auto& pod = inputs.pod.config().linux().security_context().namespace_options();
  auto of_companion = [&](const char* name) { return fmt::format("/proc/{}/ns/{}", inputs.pod.shim_pid(), name); };
  json spaces = json::array({Namespace("mount")});
  if (HasUserNamespace(inputs.pod.config())) spaces.push_back(Namespace("user", inputs.pod.user_namespace_path()));
  if (pod.network() != v1::NODE) spaces.push_back(Namespace("network", of_companion("net")));
  if (pod.ipc() != v1::NODE) spaces.push_back(Namespace("ipc", of_companion("ipc")));
  if (pod.network() != v1::NODE) spaces.push_back(Namespace("uts", of_companion("uts")));
  if (inputs.cgroup_namespace) spaces.push_back(Namespace("cgroup"));
  switch (options.pid()) {
    case v1::CONTAINER: spaces.push_back(Namespace("pid")); break;
    case v1::NODE: break;
    case v1::TARGET:
      if (inputs.target_pid == 0) return MakeError(Code::kFailedPrecondition, "the target container '{}' of its PID namespace does not run", options.target_id());
      spaces.push_back(Namespace("pid", fmt::format("/proc/{}/ns/pid", inputs.target_pid)));
      break;
    default:
      // POD: with a pod that does not share, every container has its own.
      if (pod.pid() == v1::POD) {
        spaces.push_back(Namespace("pid", fmt::format("/proc/{}/ns/pid", inputs.pod.sandbox_pid())));
      } else if (pod.pid() != v1::NODE) {
        spaces.push_back(Namespace("pid"));
      }
  }
  return spaces;
}

// The current field first, then the deprecated path, then the configured default. Empty: unconfined.
Result<std::string> SeccompOf(const Config& config, const v1::LinuxContainerSecurityContext& security, const std::vector<std::string>& caps) {
  enum { kUnconfined, kDefault, kFile } kind = config.containers.seccomp_default == "RuntimeDefault" ? kDefault : kUnconfined;
  std::string file;
  if (security.has_seccomp()) {
    kind = security.seccomp().profile_type() == v1::SecurityProfile::RuntimeDefault ? kDefault
           : security.seccomp().profile_type() == v1::SecurityProfile::Localhost    ? kFile
                                                                                    : kUnconfined;
    file = security.seccomp().localhost_ref();
  } else if (const std::string& path = security.seccomp_profile_path(); !path.empty()) {
    kind = path == "runtime/default" || path == "docker/default" ? kDefault : path == "unconfined" ? kUnconfined : kFile;
    if (kind == kFile) {
      if (!path.starts_with("localhost/")) return MakeError(Code::kInvalidArgument, "seccomp profile '{}' is not known", path.substr(0, 128));
      file = path.substr(10);
    }
  }
  if (security.privileged() || kind == kUnconfined) return std::string();
  if (kind == kDefault && config.containers.seccomp_profile.empty()) return DefaultSeccomp(caps);
  if (kind == kDefault) file = config.containers.seccomp_profile;
  if (file.starts_with("localhost/")) file.erase(0, 10);
  if (file.empty() || file[0] != '/') return MakeError(Code::kInvalidArgument, "seccomp profile '{}' is not an absolute path", file.substr(0, 128));
  auto text = sys::ReadFile(file, limits::kConfigFileBytes);
  if (!text) return std::move(text.error()).Within("seccomp profile");
  auto resolved = ResolveSeccomp(*text, SeccompTargetOfHost(caps));
  if (!resolved) return std::move(resolved.error()).Within("seccomp profile '" + file + "'");
  return resolved;
}

Result<> AddAppArmor(const v1::LinuxContainerSecurityContext& security, bool vm, json* process) {
  std::string profile;
  if (security.has_apparmor()) {
    if (security.apparmor().profile_type() != v1::SecurityProfile::Localhost) return {};  // the default is what the host gives
    profile = security.apparmor().localhost_ref();
  } else if (security.apparmor_profile().starts_with("localhost/")) {
    profile = security.apparmor_profile().substr(10);
  }
  if (profile.starts_with("localhost/")) profile.erase(0, 10);
  if (profile.empty()) return {};
  if (vm) return MakeError(Code::kFailedPrecondition, "AppArmor profile '{}' is asked for, and the kernel of a VM has no AppArmor", profile);
  auto enabled = sys::ReadFile("/sys/module/apparmor/parameters/enabled", 16);
  if (!enabled || !enabled->starts_with("Y")) return MakeError(Code::kFailedPrecondition, "AppArmor profile '{}' is asked for, and this host has no AppArmor", profile);
  (*process)["apparmorProfile"] = profile;
  return {};
}

Result<json> CapabilitiesPart(const ContainerCapabilities& caps) {
  // Nothing inheritable but what is ambient (CVE-2022-27650).
  return json{{"bounding", caps.bounding}, {"effective", caps.bounding}, {"permitted", caps.bounding}, {"inheritable", caps.ambient}, {"ambient", caps.ambient}};
}

Result<json> ProcessOf(const ContainerSpecInputs& inputs, const ContainerCapabilities& caps, const sys::User& user) {
  const auto& config = inputs.container.config();
  const auto& security = config.linux().security_context();
  json process;
  process["terminal"] = config.tty();
  // The primary group too: a program that changes it (newgrp, setgid) must not shake off what a file's mode denies that
  // group (CVE-2022-36109).
  std::vector<uint32_t> groups = {user.gid};
  std::copy_if(user.groups.begin(), user.groups.end(), std::back_inserter(groups), [&](uint32_t group) { return group != user.gid; });
  process["user"] = {{"uid", user.uid}, {"gid", user.gid}, {"additionalGids", groups}};
  process["args"] = TRY(ArgsOf(config, inputs.image.config));
  process["env"] = TRY(EnvironmentOf(inputs, user.home));
  std::string cwd = !config.working_dir().empty() ? config.working_dir() : inputs.image.config.working_dir;
  process["cwd"] = cwd.empty() ? "/" : cwd;
  if (!cwd.empty() && cwd[0] != '/') return MakeError(Code::kInvalidArgument, "working directory '{}' is not absolute", cwd.substr(0, 128));
  process["capabilities"] = TRY(CapabilitiesPart(caps));
  process["noNewPrivileges"] = security.no_new_privs();
  process["oomScoreAdj"] = config.linux().resources().oom_score_adj();
  if (inputs.config.containers.nofile_limit > 0) {
    process["rlimits"] = {{{"type", "RLIMIT_NOFILE"}, {"soft", inputs.config.containers.nofile_limit}, {"hard", inputs.config.containers.nofile_limit}}};
  }
  const bool vm = inputs.pod.has_vm();
  TRY(AddAppArmor(security, vm, &process));
  const auto& selinux = security.selinux_options();
  if (!vm && (!selinux.type().empty() || !selinux.level().empty())) {
    process["selinuxLabel"] = fmt::format("{}:{}:{}:{}", selinux.user(), selinux.role(), selinux.type(), selinux.level());
  }
  return process;
}

Result<> CheckSecurity(const ContainerSpecInputs& inputs) {
  const auto& security = inputs.container.config().linux().security_context();
  if (security.privileged() && !inputs.pod.config().linux().security_context().privileged()) {
    return MakeError(Code::kFailedPrecondition, "container '{}' is privileged and its pod sandbox is not", inputs.container.config().metadata().name());
  }
  for (const auto& list : {security.masked_paths(), security.readonly_paths()}) {
    for (const auto& path : list) {
      if (path.empty() || path[0] != '/') return MakeError(Code::kInvalidArgument, "masked or read-only path '{}' is not absolute", path.substr(0, 128));
    }
  }
  TRY(CheckSameUserNamespace(inputs.pod.config(), inputs.container.config()));
  if (inputs.pod.has_vm()) TRY(CheckVmContainer(inputs.container.config()));
  return CheckCgroupParent(inputs.pod.config().linux().cgroup_parent(), inputs.systemd_cgroup);
}

// Last of all: vendors change what the pod has asked for.
Result<> AddCdiDevices(const ContainerSpecInputs& inputs, json* spec) {
  std::vector<std::string> names;
  for (const auto& device : inputs.container.config().cdi_devices()) names.push_back(device.name());
  if (names.empty()) return {};
  CdiEdits edits = TRY(FindCdiDevices(inputs.config.containers.cdi_spec_dirs, names));
  return ApplyCdi(edits, spec);
}

Result<json> LinuxOf(const ContainerSpecInputs& inputs, const ContainerCapabilities& caps, const MountsPart& mounts, const DevicesPart& devices,
                     const std::string& cgroup_path) {
  const auto& config = inputs.container.config();
  const auto& security = config.linux().security_context();
  json out;
  out["namespaces"] = TRY(NamespacesOf(inputs));
  out["cgroupsPath"] = cgroup_path;
  if (HasUserNamespace(inputs.pod.config())) {
    const auto& space = UserNamespaceOf(inputs.pod.config());
    out["uidMappings"] = MappingsJson(space.uids());
    out["gidMappings"] = MappingsJson(space.gids());
  }
  out["devices"] = devices.devices;
  out["resources"] = TRY(ResourcesOf(inputs.config, config.linux().resources(), inputs.pod.has_vm()));
  out["resources"]["devices"] = devices.rules;
  if (!mounts.rootfs_propagation.empty()) out["rootfsPropagation"] = mounts.rootfs_propagation;
  if (!security.privileged()) {
    out["maskedPaths"] = std::vector<std::string>(security.masked_paths().begin(), security.masked_paths().end());
    out["readonlyPaths"] = std::vector<std::string>(security.readonly_paths().begin(), security.readonly_paths().end());
  }
  std::string seccomp = TRY(SeccompOf(inputs.config, security, caps.bounding));
  if (!seccomp.empty()) out["seccomp"] = TRY(ParseJson(seccomp));
  return out;
}

v1::LinuxContainerUser EffectiveUser(const sys::User& user, const json& groups) {
  v1::LinuxContainerUser effective;
  effective.set_uid(user.uid);
  effective.set_gid(user.gid);
  for (uint32_t group : groups.get<std::vector<uint32_t>>()) effective.add_supplemental_groups(group);
  return effective;
}

}  // namespace

Result<ContainerSpec> BuildContainerSpec(const ContainerSpecInputs& inputs) {
  TRY(CheckSecurity(inputs));
  const auto& config = inputs.container.config();
  const auto& security = config.linux().security_context();
  auto user = TRY(ResolveContainerUser(security, inputs.image.config.user, inputs.lower_dirs));
  const auto& defaults = inputs.config.containers.default_capabilities;
  auto caps = TRY(CapabilitiesOf(security, defaults.empty() ? DefaultCapabilities() : defaults, HostCapabilities()));
  auto mounts = TRY(MountsOf(inputs));
  auto devices = TRY(DevicesOf(config, HasUserNamespace(inputs.pod.config()), inputs.pod.has_vm()));
  ContainerSpec built;
  built.cgroup_path = CgroupPath(inputs.pod.config().linux().cgroup_parent(), inputs.container.id(), inputs.systemd_cgroup);
  json spec;
  spec["ociVersion"] = "1.2.0";
  spec["process"] = TRY(ProcessOf(inputs, caps, user));
  spec["root"] = {{"path", "rootfs"}, {"readonly", security.readonly_rootfs()}};
  spec["mounts"] = mounts.mounts;
  for (const auto& mount : devices.mounts) spec["mounts"].push_back(mount);
  // Only what we know ourselves: an annotation of the pod must not drive a runtime (CVE-2024-3154).
  spec["annotations"] = {{"io.kubernetes.cri.container-type", "container"}, {"io.kubernetes.cri.sandbox-id", inputs.pod.id()},
                         {"io.kubernetes.cri.container-name", config.metadata().name()},
                         {"io.kubernetes.cri.sandbox-name", inputs.pod.config().metadata().name()},
                         {"io.kubernetes.cri.sandbox-namespace", inputs.pod.config().metadata().namespace_()}};
  spec["linux"] = TRY(LinuxOf(inputs, caps, mounts, devices, built.cgroup_path));
  TRY(AddCdiDevices(inputs, &spec));
  built.json = DumpJson(spec);
  built.user = EffectiveUser(user, spec["process"]["user"]["additionalGids"]);
  TRY(CheckUserIsMapped(inputs.pod.config(), built.user));
  return built;
}

}  // namespace caisson::cri

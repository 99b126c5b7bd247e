// SPDX-License-Identifier: Apache-2.0
#include "oci/plan.h"

#include <sched.h>
#include <sys/mount.h>

#include <algorithm>
#include <tuple>

#include "sys/sysctl.h"

namespace caisson::oci {
namespace {

constexpr int kNewTime = 0x80;  // CLONE_NEWTIME
constexpr unsigned long kCloneFlags =
    CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWUSER;

Result<> PlanNamespaces(const Spec& spec, Plan* plan) {
  for (const auto& space : spec.namespaces) {
    if (!space.path.empty() && space.path[0] != '/') {
      return MakeError(Code::kInvalidArgument, "namespace path '{}' is not absolute", space.path.substr(0, 256));
    }
    if (space.flag == kNewTime && space.path.empty())
      return MakeError(Code::kUnimplemented, "a new time namespace is not supported");
    if (space.flag == CLONE_NEWNS && !space.path.empty())
      return MakeError(Code::kUnimplemented, "joining a mount namespace is not supported");
    if (space.path.empty()) {
      plan->clone_flags |= static_cast<unsigned long>(space.flag) & kCloneFlags;
      plan->new_cgroup_namespace |= space.flag == CLONE_NEWCGROUP;
    } else if (space.flag == CLONE_NEWUSER) {
      plan->user_namespace = space.path;
    } else if (space.flag == CLONE_NEWPID) {
      plan->pid_namespace = space.path;
    } else {
      plan->joins.push_back(space);
    }
  }
  if (!(plan->clone_flags & CLONE_NEWNS))
    return MakeError(Code::kInvalidArgument, "linux.namespaces has no mount namespace");
  plan->new_user_namespace = plan->clone_flags & CLONE_NEWUSER;
  if (plan->new_user_namespace) {
    TRY(CheckIdMappings(spec.id_maps.uids, "linux.uidMappings"));
    TRY(CheckIdMappings(spec.id_maps.gids, "linux.gidMappings"));
  } else if (plan->user_namespace.empty() && !spec.id_maps.empty()) {
    return MakeError(Code::kInvalidArgument, "linux.uidMappings is there, but no user namespace");
  }
  plan->id_maps = spec.id_maps;
  // Also in one that is joined, as runc does: CRI-O leaves to the first container what the pod's is called.
  if (spec.FindNamespace(CLONE_NEWUTS) == nullptr) return {};
  plan->hostname = spec.hostname;
  plan->domainname = spec.domainname;
  return {};
}

bool MountsTmpfsOn(const Spec& spec, std::string_view destination) {
  return std::any_of(spec.mounts.begin(), spec.mounts.end(),
                     [&](const MountSpec& mount) { return mount.destination == destination && mount.type == "tmpfs"; });
}

// runtime-spec config-linux.md "Default Devices" and runtime-linux.md "Dev symbolic links"; into a /dev of the
// container's own only, one that it is given is left as it is.
void PlanDefaultDevices(const Spec& spec, Plan* plan) {
  if (!MountsTmpfsOn(spec, "/dev")) return;
  for (auto [name, major, minor] :
       {std::tuple("null", 1, 3), {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}) {
    std::string path = std::string("/dev/") + name;
    bool told = std::any_of(spec.devices.begin(), spec.devices.end(),
                            [&](const DeviceNode& node) { return node.path == path; });
    if (!told) plan->devices.push_back({path, 'c', major, minor, 0666, 0, 0});
  }
  for (auto [name, target] : {std::pair("fd", "/proc/self/fd"),
                              {"stdin", "/proc/self/fd/0"},
                              {"stdout", "/proc/self/fd/1"},
                              {"stderr", "/proc/self/fd/2"},
                              {"ptmx", "pts/ptmx"},
                              {"core", "/proc/kcore"}}) {
    plan->links.push_back({std::string("/dev/") + name, target});
  }
}

Result<> PlanDevices(const Spec& spec, Plan* plan) {
  PlanDefaultDevices(spec, plan);
  for (const auto& node : spec.devices) {
    std::string_view leaf = std::string_view(node.path).substr(node.path.rfind('/') + 1);
    bool climbs = node.path.find("/../") != std::string::npos;
    if (climbs || leaf.empty() || leaf == "." || leaf == "..")
      return MakeError(Code::kInvalidArgument, "device path '{}' cannot be", node.path.substr(0, 256));
    plan->devices.push_back(node);
  }
  return {};
}

// runtime-spec config.md "mounts": whoever says idmap without mappings means the container's own; whoever gives mappings
// and says nothing means idmap.
Result<> PlanIdMaps(const Plan& plan, MountPlan* mount) {
  if (mount->id_maps.empty() && !mount->map_ids) return {};
  std::string what = fmt::format("mount '{}'", mount->destination);
  if (mount->id_maps.empty()) mount->id_maps = plan.id_maps;
  if (mount->id_maps.empty())
    return MakeError(Code::kInvalidArgument, "{} is to be id-mapped, but nothing says how", what);
  TRY(CheckIdMappings(mount->id_maps.uids, what + ": uidMappings"));
  TRY(CheckIdMappings(mount->id_maps.gids, what + ": gidMappings"));
  if (mount->kind == MountKind::kBind || mount->kind == MountKind::kImage || mount->type == "overlay") return {};
  return MakeError(Code::kUnimplemented, "{}: only bind mounts, overlays and images can be id-mapped", what);
}

// A mount that is shared with the host's takes whatever a container mounts on it there; in a user namespace everybody
// who is root in it may mount (mount_namespaces(7), "more privileged").
Result<> CheckPropagation(const Plan& plan) {
  // Layers are mapped in their place, which would be seen on the host.
  auto mapped = [](const MountPlan& mount) { return !mount.id_maps.empty(); };
  auto mapped_image = [](const MountPlan& mount) { return mount.kind == MountKind::kImage && !mount.id_maps.empty(); };
  bool mapped_layers = std::any_of(plan.root_mounts.begin(), plan.root_mounts.end(), mapped) ||
                       std::any_of(plan.mounts.begin(), plan.mounts.end(), mapped_image);
  bool user_namespace = plan.new_user_namespace || !plan.user_namespace.empty();
  if (!mapped_layers && !user_namespace) return {};
  bool shared = (plan.host_propagation | plan.root_propagation) & MS_SHARED;
  for (const auto& mount : plan.mounts) shared |= (mount.propagation & MS_SHARED) != 0;
  if (!shared) return {};
  return MakeError(Code::kInvalidArgument, "mounts of a container in a user namespace cannot be shared with the host's");
}

Result<> PlanMounts(const Spec& spec, const std::string& bundle, const std::vector<RootfsMount>& rootfs, Plan* plan) {
  plan->root_path = spec.root_path.starts_with('/') ? spec.root_path : bundle + "/" + spec.root_path;
  plan->root_readonly = spec.root_readonly;
  plan->root_propagation = TRY(PropagationFlag(spec.rootfs_propagation));
  // What the host mounts later comes into slaves of it and nothing goes back, unless the spec says shared.
  plan->host_propagation = plan->root_propagation == 0 ? MS_SLAVE | MS_REC : plan->root_propagation;
  // The root and the sources of binds are bound before they are what this word says.
  if (plan->root_propagation & MS_UNBINDABLE) plan->host_propagation = MS_PRIVATE | MS_REC;
  for (const auto& mount : rootfs) {
    plan->root_mounts.push_back(TRY(PlanMount(plan->root_path, mount.type, mount.source, mount.options)));
    TRY(PlanIdMaps(*plan, &plan->root_mounts.back()));
  }
  for (const auto& mount : spec.mounts) {
    MountPlan planned = TRY(PlanMount(mount.destination, mount.type, mount.source, mount.options));
    if (planned.kind == MountKind::kBind && planned.source[0] != '/') planned.source = bundle + "/" + planned.source;
    bool own = planned.kind == MountKind::kFileSystem || planned.kind == MountKind::kImage;
    bool labelled = own && !spec.mount_label.empty() && planned.type != "devtmpfs";
    if (labelled) planned.data += fmt::format("{}context=\"{}\"", planned.data.empty() ? "" : ",", spec.mount_label);
    planned.id_maps = mount.id_maps;
    TRY(PlanIdMaps(*plan, &planned));
    plan->mounts.push_back(std::move(planned));
  }
  return CheckPropagation(*plan);
}

// A device policy denies what it does not name, but the default devices "MUST" be usable (config-linux.md), as well as
// ptys, the console and making of nodes that cannot then be opened.
void PlanDeviceRules(const Spec& spec, Plan* plan) {
  plan->resources = spec.resources;
  auto& rules = plan->resources.devices;
  if (rules.empty()) return;
  rules.push_back({true, 'c', std::nullopt, std::nullopt, "m"});
  rules.push_back({true, 'b', std::nullopt, std::nullopt, "m"});
  for (auto [major, minor] : {std::pair(1, 3), {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}}) {
    rules.push_back({true, 'c', major, minor, "rwm"});
  }
  rules.push_back({true, 'c', 136, std::nullopt, "rwm"});  // pts
}

// What a container must not see or write is said by absolute paths.
Result<> CheckPaths(const std::vector<std::string>& paths, const char* what) {
  for (const auto& path : paths) {
    if (!path.starts_with('/'))
      return MakeError(Code::kInvalidArgument, "linux.{}: '{}' is not absolute", what, path.substr(0, 256));
  }
  return {};
}

}  // namespace

Result<SysctlPlan> PlanSysctl(const Spec& spec, const std::string& name, const std::string& value) {
  bool host_network = spec.FindNamespace(CLONE_NEWNET) == nullptr;
  bool host_ipc = spec.FindNamespace(CLONE_NEWIPC) == nullptr;
  TRY(sys::CheckPodSysctl(name, value, host_network, host_ipc));
  return SysctlPlan{name, "/proc/sys/" + sys::SysctlFile(name), value};
}

Result<Plan> MakePlan(const Spec& spec, const std::string& bundle, const std::vector<RootfsMount>& rootfs) {
  if (spec.process.args.empty()) return MakeError(Code::kInvalidArgument, "process.args is empty");
  Plan plan;
  TRY(PlanNamespaces(spec, &plan));
  TRY(PlanMounts(spec, bundle, rootfs, &plan));
  TRY(PlanDevices(spec, &plan));
  PlanDeviceRules(spec, &plan);
  plan.console = spec.process.terminal;
  for (const auto& [name, value] : spec.sysctl) plan.sysctls.push_back(TRY(PlanSysctl(spec, name, value)));
  plan.cwd = spec.process.cwd;
  TRY(CheckPaths(spec.readonly_paths, "readonlyPaths"));
  TRY(CheckPaths(spec.masked_paths, "maskedPaths"));
  plan.readonly_paths = spec.readonly_paths;
  plan.masked_paths = spec.masked_paths;
  return plan;
}

namespace {

constexpr const char* kKindNames[] = {"mount", "mount proc", "mount sysfs", "bind", "share shm", "mount cgroups",
                                      "mount image"};

std::string DescribeMount(const MountPlan& mount) {
  std::string text =
      fmt::format("{} '{}' on '{}'", kKindNames[static_cast<int>(mount.kind)], mount.source, mount.destination);
  if (mount.kind == MountKind::kFileSystem) text += " type " + mount.type;
  if (mount.recursive) text += " recursive";
  if (mount.copy_up) text += " with what is there";
  if (!mount.sub_path.empty()) text += fmt::format(" of it '{}'", mount.sub_path);
  for (auto [word, flags] : {std::pair("set", mount.flags),
                             {"clear", mount.clear_flags},
                             {"set-all", mount.recursive_set},
                             {"clear-all", mount.recursive_clear},
                             {"propagation", mount.propagation}}) {
    if (flags != 0) text += fmt::format(" {} {}", word, DescribeFlags(flags));
  }
  if (!mount.data.empty()) text += " data " + mount.data;
  for (const auto& [what, maps] : {std::pair("uids", &mount.id_maps.uids), {"gids", &mount.id_maps.gids}}) {
    for (const auto& map : *maps)
      text += fmt::format(" {} {}:{}:{}{}", what, map.container_id, map.host_id, map.size,
                          mount.map_ids_recursive ? " recursive" : "");
  }
  return text + "\n";
}

const char* NamespaceName(int flag) {
  for (auto [each, name] : {std::pair(CLONE_NEWNS, "mount"),
                            {CLONE_NEWPID, "pid"},
                            {CLONE_NEWNET, "network"},
                            {CLONE_NEWIPC, "ipc"},
                            {CLONE_NEWUTS, "uts"},
                            {CLONE_NEWUSER, "user"},
                            {CLONE_NEWCGROUP, "cgroup"}}) {
    if (flag == each) return name;
  }
  return "time";
}

}  // namespace

std::string Describe(const Plan& plan) {
  std::string text;
  for (int flag : {CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS}) {
    if (plan.clone_flags & static_cast<unsigned long>(flag))
      text += fmt::format("new {} namespace\n", NamespaceName(flag));
  }
  if (plan.new_cgroup_namespace) text += "new cgroup namespace\n";
  if (!plan.user_namespace.empty()) text += fmt::format("join user namespace '{}'\n", plan.user_namespace);
  if (!plan.pid_namespace.empty()) text += fmt::format("join pid namespace '{}'\n", plan.pid_namespace);
  for (const auto& join : plan.joins)
    text += fmt::format("join {} namespace '{}'\n", NamespaceName(join.flag), join.path);
  if (!plan.hostname.empty()) text += fmt::format("hostname '{}'\n", plan.hostname);
  if (!plan.domainname.empty()) text += fmt::format("domain name '{}'\n", plan.domainname);
  text += fmt::format("propagation {}\n", DescribeFlags(plan.host_propagation));
  for (const auto& mount : plan.root_mounts) text += "root: " + DescribeMount(mount);
  if (plan.root_mounts.empty()) text += fmt::format("root: bind '{}' on itself\n", plan.root_path);
  for (const auto& mount : plan.mounts) text += DescribeMount(mount);
  for (const auto& node : plan.devices)
    text += fmt::format("device '{}' {} {}:{} {:o} {}:{}\n", node.path, node.type, node.major, node.minor, node.mode,
                        node.uid, node.gid);
  for (const auto& link : plan.links) text += fmt::format("link '{}' to '{}'\n", link.path, link.target);
  if (plan.console) text += "console\n";
  for (const auto& sysctl : plan.sysctls) text += fmt::format("write '{}' to '{}'\n", sysctl.value, sysctl.path);
  text += fmt::format("working directory '{}'\n", plan.cwd);
  for (const auto& path : plan.readonly_paths) text += fmt::format("read-only '{}'\n", path);
  for (const auto& path : plan.masked_paths) text += fmt::format("mask '{}'\n", path);
  if (plan.root_readonly) text += "read-only root\n";
  text += "pivot\n";
  if (plan.root_propagation != 0)
    text += fmt::format("propagation of the root {}\n", DescribeFlags(plan.root_propagation));
  return text;
}

}  // namespace caisson::oci

// SPDX-License-Identifier: Apache-2.0
#include "oci/spec.h"

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <limits>

#include "oci/json_reader.h"

namespace caisson::oci {
namespace {

// capabilities(7), in the order of their numbers (linux/capability.h).
constexpr std::array<std::string_view, 41> kCapabilities = {"CHOWN",
                                                            "DAC_OVERRIDE",
                                                            "DAC_READ_SEARCH",
                                                            "FOWNER",
                                                            "FSETID",
                                                            "KILL",
                                                            "SETGID",
                                                            "SETUID",
                                                            "SETPCAP",
                                                            "LINUX_IMMUTABLE",
                                                            "NET_BIND_SERVICE",
                                                            "NET_BROADCAST",
                                                            "NET_ADMIN",
                                                            "NET_RAW",
                                                            "IPC_LOCK",
                                                            "IPC_OWNER",
                                                            "SYS_MODULE",
                                                            "SYS_RAWIO",
                                                            "SYS_CHROOT",
                                                            "SYS_PTRACE",
                                                            "SYS_PACCT",
                                                            "SYS_ADMIN",
                                                            "SYS_BOOT",
                                                            "SYS_NICE",
                                                            "SYS_RESOURCE",
                                                            "SYS_TIME",
                                                            "SYS_TTY_CONFIG",
                                                            "MKNOD",
                                                            "LEASE",
                                                            "AUDIT_WRITE",
                                                            "AUDIT_CONTROL",
                                                            "SETFCAP",
                                                            "MAC_OVERRIDE",
                                                            "MAC_ADMIN",
                                                            "SYSLOG",
                                                            "WAKE_ALARM",
                                                            "BLOCK_SUSPEND",
                                                            "AUDIT_READ",
                                                            "PERFMON",
                                                            "BPF",
                                                            "CHECKPOINT_RESTORE"};

struct NamedNumber {
  std::string_view name;
  int number;
};

constexpr NamedNumber kRlimits[] = {
    {"RLIMIT_AS", RLIMIT_AS},           {"RLIMIT_CORE", RLIMIT_CORE},         {"RLIMIT_CPU", RLIMIT_CPU},
    {"RLIMIT_DATA", RLIMIT_DATA},       {"RLIMIT_FSIZE", RLIMIT_FSIZE},       {"RLIMIT_LOCKS", RLIMIT_LOCKS},
    {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK}, {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE}, {"RLIMIT_NICE", RLIMIT_NICE},
    {"RLIMIT_NOFILE", RLIMIT_NOFILE},   {"RLIMIT_NPROC", RLIMIT_NPROC},       {"RLIMIT_RSS", RLIMIT_RSS},
    {"RLIMIT_RTPRIO", RLIMIT_RTPRIO},   {"RLIMIT_RTTIME", RLIMIT_RTTIME},     {"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
    {"RLIMIT_STACK", RLIMIT_STACK}};

constexpr NamedNumber kIoClasses[] = {{"IOPRIO_CLASS_RT", 1}, {"IOPRIO_CLASS_BE", 2}, {"IOPRIO_CLASS_IDLE", 3}};

constexpr NamedNumber kPolicies[] = {{"SCHED_OTHER", 0}, {"SCHED_FIFO", 1}, {"SCHED_RR", 2},      {"SCHED_BATCH", 3},
                                     {"SCHED_ISO", 4},   {"SCHED_IDLE", 5}, {"SCHED_DEADLINE", 6}};

constexpr NamedNumber kSchedulerFlags[] = {{"SCHED_FLAG_RESET_ON_FORK", 1},  {"SCHED_FLAG_RECLAIM", 2},
                                           {"SCHED_FLAG_DL_OVERRUN", 4},     {"SCHED_FLAG_KEEP_POLICY", 8},
                                           {"SCHED_FLAG_KEEP_PARAMS", 16},   {"SCHED_FLAG_UTIL_CLAMP_MIN", 32},
                                           {"SCHED_FLAG_UTIL_CLAMP_MAX", 64}};

constexpr NamedNumber kNamespaces[] = {
    {"mount", CLONE_NEWNS}, {"pid", CLONE_NEWPID},   {"network", CLONE_NEWNET},   {"ipc", CLONE_NEWIPC},
    {"uts", CLONE_NEWUTS},  {"user", CLONE_NEWUSER}, {"cgroup", CLONE_NEWCGROUP}, {"time", 0x80 /* CLONE_NEWTIME */}};

Result<int> Lookup(const NamedNumber* begin, const NamedNumber* end, std::string_view name, const std::string& path) {
  auto found = std::find_if(begin, end, [&](const NamedNumber& entry) { return entry.name == name; });
  if (found == end) return MakeError(Code::kInvalidArgument, "{}: '{}' is not known", path, name.substr(0, 64));
  return found->number;
}

Result<> ReadCapabilitySet(const JsonReader& reader, const char* key, uint64_t* set) {
  std::vector<std::string> names;
  TRY(reader.Read(key, &names));
  for (const auto& name : names) *set |= uint64_t{1} << TRY(CapabilityNumber(name));
  return {};
}

Result<> ReadSchedule(const JsonReader& reader, ProcessSpec* process) {
  TRY(reader.Object("ioPriority", [&](const JsonReader& item) -> Result<> {
    std::string name;
    auto& io = process->io_priority.emplace();
    TRY(item.Read("class", &name));
    TRY(item.Read("priority", &io.priority));
    io.io_class = TRY(Lookup(std::begin(kIoClasses), std::end(kIoClasses), name, item.At("class")));
    if (io.priority < 0 || io.priority > 7) return item.Wrong("priority", "0 to 7");
    return {};
  }));
  return reader.Object("scheduler", [&](const JsonReader& item) -> Result<> {
    std::string name;
    std::vector<std::string> flags;
    auto& scheduler = process->scheduler.emplace();
    TRY(item.Read("policy", &name));
    scheduler.policy =
        static_cast<uint32_t>(TRY(Lookup(std::begin(kPolicies), std::end(kPolicies), name, item.At("policy"))));
    TRY(item.Read("flags", &flags));
    for (const auto& flag : flags) {
      scheduler.flags |= static_cast<uint64_t>(
          TRY(Lookup(std::begin(kSchedulerFlags), std::end(kSchedulerFlags), flag, item.At("flags"))));
    }
    TRY(item.Read("nice", &scheduler.nice));
    TRY(item.Read("priority", &scheduler.priority));
    TRY(item.Read("runtime", &scheduler.runtime));
    TRY(item.Read("deadline", &scheduler.deadline));
    return item.Read("period", &scheduler.period);
  });
}

Result<> ReadProcess(const JsonReader& reader, ProcessSpec* process) {
  TRY(reader.Read("terminal", &process->terminal));
  TRY(reader.Object("consoleSize", [&](const JsonReader& size) -> Result<> {
    TRY(size.Read("width", &process->console_width));
    return size.Read("height", &process->console_height);
  }));
  TRY(reader.Object("user", [&](const JsonReader& user) -> Result<> {
    TRY(user.Read("uid", &process->uid));
    TRY(user.Read("gid", &process->gid));
    process->gid_given = user.Find("gid") != nullptr;
    TRY(user.Read("username", &process->username));
    TRY(user.Read("strictGroups", &process->strict_groups));
    TRY(user.Read("umask", &process->umask));
    return user.Each("additionalGids", [&](const Json& item, const std::string& path) -> Result<> {
      if (!item.is_number_unsigned() || item.get<uint64_t>() > std::numeric_limits<uint32_t>::max()) {
        return MakeError(Code::kInvalidArgument, "{} is not a group id", path);
      }
      process->additional_gids.push_back(item.get<uint32_t>());
      return {};
    });
  }));
  TRY(reader.Read("args", &process->args));
  TRY(reader.Read("env", &process->env));
  TRY(reader.Read("cwd", &process->cwd));
  TRY(reader.Object("capabilities", [&](const JsonReader& sets) -> Result<> {
    CapabilitySets all;
    TRY(ReadCapabilitySet(sets, "bounding", &all.bounding));
    TRY(ReadCapabilitySet(sets, "effective", &all.effective));
    TRY(ReadCapabilitySet(sets, "inheritable", &all.inheritable));
    TRY(ReadCapabilitySet(sets, "permitted", &all.permitted));
    TRY(ReadCapabilitySet(sets, "ambient", &all.ambient));
    process->capabilities = all;
    return {};
  }));
  TRY(reader.EachObject("rlimits", [&](const JsonReader& item) -> Result<> {
    std::string type;
    Rlimit limit;
    TRY(item.Read("type", &type));
    limit.resource = TRY(Lookup(std::begin(kRlimits), std::end(kRlimits), type, item.At("type")));
    TRY(item.Read("soft", &limit.soft));
    TRY(item.Read("hard", &limit.hard));
    process->rlimits.push_back(limit);
    return {};
  }));
  TRY(reader.Read("noNewPrivileges", &process->no_new_privileges));
  TRY(reader.Read("apparmorProfile", &process->apparmor_profile));
  TRY(reader.Read("selinuxLabel", &process->selinux_label));
  TRY(reader.Read("oomScoreAdj", &process->oom_score_adj));
  TRY(ReadSchedule(reader, process));
  if (process->args.empty()) return MakeError(Code::kInvalidArgument, "{} is empty", reader.At("args"));
  if (process->cwd.empty() || process->cwd[0] != '/') {
    return MakeError(Code::kInvalidArgument, "{} '{}' is not absolute", reader.At("cwd"), process->cwd.substr(0, 256));
  }
  return {};
}

Result<> ReadHooks(const JsonReader& reader, const char* key, std::vector<Hook>* hooks) {
  return reader.EachObject(key, [&](const JsonReader& item) -> Result<> {
    Hook hook;
    TRY(item.Read("path", &hook.path));
    TRY(item.Read("args", &hook.args));
    TRY(item.Read("env", &hook.env));
    TRY(item.Read("timeout", &hook.timeout_seconds));
    if (hook.path.empty() || hook.path[0] != '/') return item.Wrong("path", "an absolute path");
    hooks->push_back(std::move(hook));
    return {};
  });
}

Result<> ReadIdMappings(const JsonReader& reader, const char* key, std::vector<IdMapping>* mappings) {
  return reader.EachObject(key, [&](const JsonReader& item) -> Result<> {
    IdMapping mapping;
    TRY(item.Read("containerID", &mapping.container_id));
    TRY(item.Read("hostID", &mapping.host_id));
    TRY(item.Read("size", &mapping.size));
    mappings->push_back(mapping);
    return {};
  });
}

Result<> ReadThrottle(const JsonReader& reader, const char* key, std::vector<Resources::ThrottleDevice>* devices) {
  return reader.EachObject(key, [&](const JsonReader& item) -> Result<> {
    Resources::ThrottleDevice device;
    TRY(item.Read("major", &device.major));
    TRY(item.Read("minor", &device.minor));
    TRY(item.Read("rate", &device.rate));
    devices->push_back(device);
    return {};
  });
}

Result<> ReadBlockIo(const JsonReader& reader, Resources::BlockIo* block_io) {
  TRY(reader.Read("weight", &block_io->weight));
  TRY(reader.Read("leafWeight", &block_io->leaf_weight));
  TRY(reader.EachObject("weightDevice", [&](const JsonReader& item) -> Result<> {
    Resources::WeightDevice device;
    TRY(item.Read("major", &device.major));
    TRY(item.Read("minor", &device.minor));
    TRY(item.Read("weight", &device.weight));
    TRY(item.Read("leafWeight", &device.leaf_weight));
    block_io->weight_device.push_back(device);
    return {};
  }));
  TRY(ReadThrottle(reader, "throttleReadBpsDevice", &block_io->read_bps));
  TRY(ReadThrottle(reader, "throttleWriteBpsDevice", &block_io->write_bps));
  TRY(ReadThrottle(reader, "throttleReadIOPSDevice", &block_io->read_iops));
  return ReadThrottle(reader, "throttleWriteIOPSDevice", &block_io->write_iops);
}

Result<> ReadDeviceRules(const JsonReader& reader, Resources* resources) {
  return reader.EachObject("devices", [&](const JsonReader& item) -> Result<> {
    Resources::DeviceRule rule;
    std::string type = "a";
    TRY(item.Read("allow", &rule.allow));
    TRY(item.Read("type", &type));
    TRY(item.Read("major", &rule.major));
    TRY(item.Read("minor", &rule.minor));
    TRY(item.Read("access", &rule.access));
    if (type != "a" && type != "b" && type != "c") return item.Wrong("type", "a, b or c");
    rule.type = type[0];
    resources->devices.push_back(std::move(rule));
    return {};
  });
}

Result<> ReadMemoryAndCpu(const JsonReader& reader, Resources* resources) {
  TRY(reader.Object("memory", [&](const JsonReader& item) -> Result<> {
    auto& memory = resources->memory.emplace();
    TRY(item.Read("limit", &memory.limit));
    TRY(item.Read("reservation", &memory.reservation));
    TRY(item.Read("swap", &memory.swap));
    TRY(item.Read("kernel", &memory.kernel));
    TRY(item.Read("kernelTCP", &memory.kernel_tcp));
    TRY(item.Read("swappiness", &memory.swappiness));
    TRY(item.Read("disableOOMKiller", &memory.disable_oom_killer));
    TRY(item.Read("useHierarchy", &memory.use_hierarchy));
    return item.Read("checkBeforeUpdate", &memory.check_before_update);
  }));
  return reader.Object("cpu", [&](const JsonReader& item) -> Result<> {
    auto& cpu = resources->cpu.emplace();
    TRY(item.Read("shares", &cpu.shares));
    TRY(item.Read("quota", &cpu.quota));
    TRY(item.Read("burst", &cpu.burst));
    TRY(item.Read("period", &cpu.period));
    TRY(item.Read("realtimeRuntime", &cpu.realtime_runtime));
    TRY(item.Read("realtimePeriod", &cpu.realtime_period));
    TRY(item.Read("cpus", &cpu.cpus));
    TRY(item.Read("mems", &cpu.mems));
    return item.Read("idle", &cpu.idle);
  });
}

Result<> ReadResources(const JsonReader& reader, Resources* resources) {
  TRY(ReadDeviceRules(reader, resources));
  TRY(ReadMemoryAndCpu(reader, resources));
  TRY(reader.Object("pids", [&](const JsonReader& item) { return item.Read("limit", &resources->pids_limit); }));
  TRY(reader.Object("blockIO",
                    [&](const JsonReader& item) { return ReadBlockIo(item, &resources->block_io.emplace()); }));
  TRY(reader.EachObject("hugepageLimits", [&](const JsonReader& item) -> Result<> {
    Resources::HugepageLimit limit;
    TRY(item.Read("pageSize", &limit.page_size));
    TRY(item.Read("limit", &limit.limit));
    resources->hugepage_limits.push_back(std::move(limit));
    return {};
  }));
  TRY(reader.Object("network", [&](const JsonReader& item) -> Result<> {
    auto& network = resources->network.emplace();
    TRY(item.Read("classID", &network.class_id));
    return item.EachObject("priorities", [&](const JsonReader& entry) -> Result<> {
      Resources::NetworkPriority priority;
      TRY(entry.Read("name", &priority.name));
      TRY(entry.Read("priority", &priority.priority));
      network.priorities.push_back(std::move(priority));
      return {};
    });
  }));
  if (const Json* rdma = reader.Find("rdma")) {
    if (!rdma->is_object()) return reader.Wrong("rdma", "an object");
    for (const auto& [name, item] : rdma->items()) {
      if (!item.is_object())
        return MakeError(Code::kInvalidArgument, "{}.{} is not an object", reader.At("rdma"), name);
      JsonReader limits(item, reader.At("rdma") + "." + name);
      TRY(limits.Read("hcaHandles", &resources->rdma[name].hca_handles));
      TRY(limits.Read("hcaObjects", &resources->rdma[name].hca_objects));
    }
  }
  return reader.Read("unified", &resources->unified);
}

Result<> ReadDevices(const JsonReader& reader, std::vector<DeviceNode>* devices) {
  return reader.EachObject("devices", [&](const JsonReader& item) -> Result<> {
    DeviceNode node;
    std::string type;
    TRY(item.Read("path", &node.path));
    TRY(item.Read("type", &type));
    TRY(item.Read("major", &node.major));
    TRY(item.Read("minor", &node.minor));
    TRY(item.Read("fileMode", &node.mode));
    TRY(item.Read("uid", &node.uid));
    TRY(item.Read("gid", &node.gid));
    if (type.size() != 1 || std::string_view("bcup").find(type) == std::string_view::npos)
      return item.Wrong("type", "b, c, u or p");
    if (node.path.empty() || node.path[0] != '/') return item.Wrong("path", "an absolute path");
    node.type = type[0];
    devices->push_back(std::move(node));
    return {};
  });
}

Result<> ReadLinux(const JsonReader& reader, Spec* spec) {
  TRY(reader.EachObject("namespaces", [&](const JsonReader& item) -> Result<> {
    std::string type;
    NamespaceSpec space;
    TRY(item.Read("type", &type));
    TRY(item.Read("path", &space.path));
    space.flag = TRY(Lookup(std::begin(kNamespaces), std::end(kNamespaces), type, item.At("type")));
    if (spec->FindNamespace(space.flag) != nullptr) return item.Wrong("type", "named once");
    spec->namespaces.push_back(std::move(space));
    return {};
  }));
  TRY(ReadIdMappings(reader, "uidMappings", &spec->id_maps.uids));
  TRY(ReadIdMappings(reader, "gidMappings", &spec->id_maps.gids));
  TRY(reader.Read("sysctl", &spec->sysctl));
  TRY(reader.Read("cgroupsPath", &spec->cgroups_path));
  TRY(reader.Object("resources", [&](const JsonReader& item) { return ReadResources(item, &spec->resources); }));
  TRY(ReadDevices(reader, &spec->devices));
  if (const Json* seccomp = reader.Find("seccomp")) spec->seccomp = TRY(ParseSeccomp(*seccomp));
  TRY(reader.Read("rootfsPropagation", &spec->rootfs_propagation));
  TRY(reader.Read("mountLabel", &spec->mount_label));
  TRY(reader.Read("maskedPaths", &spec->masked_paths));
  TRY(reader.Object("personality", [&](const JsonReader& item) -> Result<> {
    std::string domain;
    TRY(item.Read("domain", &domain));
    if (domain != "LINUX" && domain != "LINUX32") return item.Wrong("domain", "LINUX or LINUX32");
    spec->personality = domain == "LINUX32" ? 8 : 0;  // PER_LINUX32, PER_LINUX
    return {};
  }));
  for (const char* member : {"intelRdt", "timeOffsets", "netDevices"}) {
    if (const Json* found = reader.Find(member); found != nullptr && !found->empty()) {
      return MakeError(Code::kUnimplemented, "{} is not supported", reader.At(member));
    }
  }
  return reader.Read("readonlyPaths", &spec->readonly_paths);
}

Result<> ReadMounts(const JsonReader& reader, std::vector<MountSpec>* mounts) {
  return reader.EachObject("mounts", [&](const JsonReader& item) -> Result<> {
    MountSpec mount;
    TRY(item.Read("destination", &mount.destination));
    TRY(item.Read("type", &mount.type));
    TRY(item.Read("source", &mount.source));
    TRY(item.Read("options", &mount.options));
    TRY(ReadIdMappings(item, "uidMappings", &mount.id_maps.uids));
    TRY(ReadIdMappings(item, "gidMappings", &mount.id_maps.gids));
    if (mount.destination.empty()) return item.Wrong("destination", "given");
    if (mount.destination[0] != '/') mount.destination.insert(0, 1, '/');  // runtime-spec 1.0: relative to "/"
    mounts->push_back(std::move(mount));
    return {};
  });
}

Result<Json> ParseObject(std::string_view json, const char* what) {
  Json document = TRY(ParseJson(json));
  if (!document.is_object()) return MakeError(Code::kInvalidArgument, "{} is not a JSON object", what);
  return document;
}

}  // namespace

const NamespaceSpec* Spec::FindNamespace(int flag) const {
  for (const auto& space : namespaces) {
    if (space.flag == flag) return &space;
  }
  return nullptr;
}

Result<int> CapabilityNumber(std::string_view name) {
  std::string_view bare = name.starts_with("CAP_") ? name.substr(4) : name;
  auto found = std::find(kCapabilities.begin(), kCapabilities.end(), bare);
  if (found == kCapabilities.end())
    return MakeError(Code::kInvalidArgument, "unknown capability '{}'", name.substr(0, 64));
  return static_cast<int>(found - kCapabilities.begin());
}

std::string CapabilityName(int number) {
  if (number < 0 || static_cast<size_t>(number) >= kCapabilities.size()) return "";
  return "CAP_" + std::string(kCapabilities[static_cast<size_t>(number)]);
}

Result<ProcessSpec> ParseProcess(std::string_view json) {
  Json document = TRY(ParseObject(json, "the process"));
  ProcessSpec process;
  TRY(ReadProcess(JsonReader(document, "process"), &process));
  return process;
}

Result<Resources> ParseResources(std::string_view json) {
  Json document = TRY(ParseObject(json, "the resources"));
  Resources resources;
  TRY(ReadResources(JsonReader(document, "linux.resources"), &resources));
  return resources;
}

Result<Spec> ParseSpec(std::string_view json) {
  Json document = TRY(ParseObject(json, "the OCI configuration"));
  JsonReader reader(document, "");
  Spec spec;
  TRY(reader.Read("ociVersion", &spec.version));
  if (!spec.version.starts_with("1.")) {
    return MakeError(Code::kInvalidArgument, "ociVersion '{}' is not 1.x", spec.version.substr(0, 32));
  }
  TRY(reader.Object("process", [&](const JsonReader& item) { return ReadProcess(item, &spec.process); }));
  TRY(reader.Object("root", [&](const JsonReader& item) -> Result<> {
    TRY(item.Read("path", &spec.root_path));
    return item.Read("readonly", &spec.root_readonly);
  }));
  TRY(reader.Read("hostname", &spec.hostname));
  TRY(reader.Read("domainname", &spec.domainname));
  TRY(ReadMounts(reader, &spec.mounts));
  TRY(reader.Object("hooks", [&](const JsonReader& item) -> Result<> {
    TRY(ReadHooks(item, "prestart", &spec.hooks.prestart));
    TRY(ReadHooks(item, "createRuntime", &spec.hooks.create_runtime));
    TRY(ReadHooks(item, "createContainer", &spec.hooks.create_container));
    TRY(ReadHooks(item, "startContainer", &spec.hooks.start_container));
    TRY(ReadHooks(item, "poststart", &spec.hooks.poststart));
    return ReadHooks(item, "poststop", &spec.hooks.poststop);
  }));
  TRY(reader.Read("annotations", &spec.annotations));
  TRY(reader.Object("linux", [&](const JsonReader& item) { return ReadLinux(item, &spec); }));
  return spec;
}

}  // namespace caisson::oci

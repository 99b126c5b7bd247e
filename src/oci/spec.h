// SPDX-License-Identifier: Apache-2.0
//
// Spec: an OCI runtime-spec 1.2 configuration (config.json) as plain values. Parsing is strict about types and bounded;
// members that this runtime does not know are ignored, as the spec demands (config.md "Extensibility").
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/cgroup.h"
#include "oci/id_mapping.h"
#include "oci/seccomp.h"

namespace caisson::oci {

struct Rlimit {
  int resource = 0;  // RLIMIT_*
  uint64_t soft = 0, hard = 0;
};

struct CapabilitySets {
  uint64_t bounding = 0, effective = 0, inheritable = 0, permitted = 0, ambient = 0;  // bit n: capability n
};

struct IoPriority {
  int io_class = 0;  // IOPRIO_CLASS_* of ioprio_set(2)
  int priority = 0;
};

// What sched_setattr(2) takes.
struct Scheduler {
  uint32_t policy = 0;  // SCHED_*
  uint64_t flags = 0;   // SCHED_FLAG_*
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0, deadline = 0, period = 0;
};

struct ProcessSpec {
  bool terminal = false;
  uint16_t console_width = 0, console_height = 0;
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> additional_gids;
  bool keep_groups = false;  // set by whoever may not call setgroups(2): the supplementary groups stay. In no JSON
  // Not empty: "user" or "user:group" as an image says it, looked up in the container's own /etc/passwd and /etc/group
  // when its root is there (sys/user.h); uid is then not looked at, and gid only if `gid_given`. Members
  // `process.user.username` and, of ours, `process.user.strictGroups` (only additionalGids, none of /etc/group).
  std::string username;
  bool gid_given = false, strict_groups = false;
  std::optional<uint32_t> umask;
  std::vector<std::string> args, env;
  std::string cwd = "/";
  std::optional<CapabilitySets> capabilities;  // absent: none at all
  std::vector<Rlimit> rlimits;
  bool no_new_privileges = false;
  std::string apparmor_profile, selinux_label;
  std::optional<int> oom_score_adj;
  std::optional<IoPriority> io_priority;
  std::optional<Scheduler> scheduler;
};

struct MountSpec {
  std::string destination, type, source;
  std::vector<std::string> options;
  IdMaps id_maps = {};  // empty: the owners' ids are what they are
};

struct NamespaceSpec {
  int flag = 0;      // CLONE_NEW*
  std::string path;  // empty: a new one
};

struct DeviceNode {
  std::string path;
  char type = 'c';  // 'b', 'c', 'u', 'p'
  int64_t major = 0, minor = 0;
  uint32_t mode = 0666;
  uint32_t uid = 0, gid = 0;
};

struct Hook {
  std::string path;
  std::vector<std::string> args, env;
  int64_t timeout_seconds = 0;  // 0: the limit of ours
};

struct Hooks {
  std::vector<Hook> prestart, create_runtime, create_container, start_container, poststart, poststop;
};

struct Spec {
  std::string version;
  ProcessSpec process;
  std::string root_path = "rootfs";
  bool root_readonly = false;
  std::string hostname, domainname;
  std::vector<MountSpec> mounts;
  Hooks hooks;
  std::map<std::string, std::string> annotations;

  std::vector<NamespaceSpec> namespaces;
  IdMaps id_maps;
  std::map<std::string, std::string> sysctl;
  std::string cgroups_path;
  Resources resources;
  std::vector<DeviceNode> devices;
  std::optional<SeccompSpec> seccomp;
  std::string rootfs_propagation, mount_label;
  std::vector<std::string> masked_paths, readonly_paths;
  std::optional<unsigned long> personality;  // personality(2)

  // The namespace of kind CLONE_NEW*, or null when the container stays in the runtime's.
  const NamespaceSpec* FindNamespace(int flag) const;
};

// Errors: kInvalidArgument naming the member ("process.user.uid is not a number").
Result<Spec> ParseSpec(std::string_view json);
// The `process` object alone, as Task.Exec carries it.
Result<ProcessSpec> ParseProcess(std::string_view json);
// The `linux.resources` object alone, as Task.Update carries it.
Result<Resources> ParseResources(std::string_view json);

// "CAP_NET_ADMIN" to its number; kInvalidArgument for an unknown name.
Result<int> CapabilityNumber(std::string_view name);
// "CAP_NET_ADMIN" of its number; empty: this runtime knows none of that number.
std::string CapabilityName(int number);

}  // namespace caisson::oci

// SPDX-License-Identifier: Apache-2.0
//
// Config: everything caissond can be told, with the default of each. `caissond` runs without any file; a TOML file
// (docs/config.md) overrides. A key that is not known is an error that names it. A plain value, never changed once
// the daemon runs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/vm_size.h"

namespace caisson::cri {

enum class CgroupDriver { kAuto, kCgroupfs, kSystemd };

// A runtime handler: what RunPodSandbox's runtime_handler (RuntimeClass) may name.
struct HandlerConfig {
  std::string shim_path;           // empty: Config::shim_path
  std::string sandbox = "native";  // or "vm": each pod is a virtual machine
  // A native pod whose containers another program makes: an OCI runtime binary ...
  std::string runtime;                    // absolute; empty: none
  std::vector<std::string> runtime_args;  // of each run of it, before its command
  // ... or a shim of containerd's protocol, version 2.
  std::string runtime_type;                            // "io.containerd.runc.v2"; empty: none
  std::string runtime_path;                            // its program; empty: by runtime_type, in PATH
  std::map<std::string, std::string> runtime_options;  // as containerd's configuration calls them
  // What follows is for "vm".
  std::string vmm = "qemu";
  std::string vmm_path;  // empty: where its package puts it
  std::string kernel = kGuestKernel;
  std::string initrd = kGuestInitrd;
  std::string machine = "microvm";     // or "q35", into which memory can be plugged
  std::string accelerator = "auto";    // "kvm", "tcg", or whichever a probe finds
  int64_t vcpus = kVmVcpus;              // of a pod without a CPU limit
  int64_t memory_bytes = kVmMemoryBytes;  // of a pod without a memory limit
  int64_t first_vmm_id = kFirstVmmId;  // each pod's VMM runs as a user and group of its own of kVmmIds from here
  bool templates = true;               // pods are clones of a VM that has booted
  bool debug = false;                  // `caisson exec --guest`: processes in the guest that are in no container

  bool IsVm() const { return sandbox == "vm"; }
  // Its containers are made by another project's program.
  bool IsForeign() const { return !runtime.empty() || !runtime_type.empty(); }
  bool operator==(const HandlerConfig&) const = default;
};

inline constexpr char kVmHandler[] = "caisson-vm";  // the handler whose sandbox is "vm" unless its table says otherwise

// What the table [handlers.NAME] begins with.
HandlerConfig DefaultHandler(std::string_view name);
// The program of a shim: "containerd-shim-runc-v2" of "io.containerd.runc.v2". Empty: that is no such name.
std::string ShimNameOf(std::string_view runtime_type);

struct CniSettings {
  std::string conf_dir = "/etc/cni/net.d";
  std::vector<std::string> bin_dirs = {"/opt/cni/bin", "/usr/lib/cni"};
  std::string conf_template;  // of what UpdateRuntimeConfig writes into conf_dir (net/conf_template.h); empty: nothing
  int max_conf_files = 1;
  int64_t add_timeout_seconds = 60, del_timeout_seconds = 60;
};

struct ImageSettings {
  std::string certs_dir = "/etc/caisson/certs.d";
  std::string docker_config;                // a docker config.json; empty: none
  std::vector<std::string> pinned;          // never garbage
  int max_parallel_downloads = 3;
  int64_t stall_timeout_seconds = 60;
};

struct ContainerDefaults {
  std::string seccomp_default = "Unconfined";  // or "RuntimeDefault": where a pod says nothing
  std::string seccomp_profile;                     // a profile file in place of the built-in one; empty: built in
  int64_t pids_limit = 0;                          // per container; 0: none of ours (the kubelet limits the pod)
  int64_t shm_bytes = 64 << 20;                    // a pod's /dev/shm
  int64_t log_line_bytes = 16 << 10;               // longest CRI log line before it is split
  uint64_t nofile_limit = 0;                       // RLIMIT_NOFILE of containers; 0: the daemon's own hard limit
  bool unprivileged_ports = true;                  // net.ipv4.ip_unprivileged_port_start=0 in pods with own network
  bool unprivileged_icmp = true;                   // net.ipv4.ping_group_range in pods with own network
  std::vector<std::string> default_capabilities;   // empty: the usual fourteen
  std::vector<std::string> cdi_spec_dirs = {"/etc/cdi", "/var/run/cdi"};
};

struct StreamingSettings {
  std::string address = "127.0.0.1";
  int port = 0;          // 0: any
  std::string base_url;  // of the URLs that clients get, if not the listener's own
  std::string tls_certificate, tls_key;
  int64_t idle_timeout_seconds = 4 * 3600;
};

struct CheckpointSettings {
  std::string criu;      // the program; empty: criu of the usual folders
  bool restore = false;  // whether containers are created from checkpoint archives: docs/threat-model.md
};

struct TemplateSettings {
  int64_t max_count = 8;
  int64_t max_bytes = int64_t{4} << 30;  // of the memory sizes of all
  int64_t idle_seconds = 3600;           // unused for so long, a template ends
  int64_t warm_count = 1;                // clones that wait for pods (warm_pool.h)
};

struct StatsSettings {
  int64_t sample_seconds = 5;  // how old the figures of all pods may be; 0: read when asked
};

struct MetricsSettings {
  std::string address;  // "127.0.0.1:9465" of /metrics; empty: none
};

struct Config {
  std::string root = "/var/lib/caisson";  // survives a reboot: images, the index
  std::string state = "/run/caisson";     // does not: sockets, bundles, network namespaces
  std::string socket;                     // RuntimeService and ImageService; empty: <state>/caisson.sock
  std::string image_socket;               // a second socket for ImageService; empty: none
  std::string log_level = "info";
  CgroupDriver cgroup_driver = CgroupDriver::kAuto;
  std::string default_handler = "caisson";
  std::string untrusted_handler;  // of pods that an annotation calls untrusted and that name no handler; empty: not looked at
  std::map<std::string, HandlerConfig> handlers = {{"caisson", {}}, {kVmHandler, DefaultHandler(kVmHandler)}};
  std::string shim_path;  // the companion; empty: beside this program, then in PATH
  int64_t shim_timeout_seconds = 60;  // one request to a companion, but for waits
  int max_threads = 256;              // RPCs in work at once
  CniSettings cni;
  ImageSettings images;
  ContainerDefaults containers;
  StreamingSettings streaming;
  StatsSettings stats;
  MetricsSettings metrics;
  CheckpointSettings checkpoint;
  TemplateSettings templates;

  // Fault points that fail (tests only; the hidden flag --fault). Not a key of the file.
  std::vector<std::string> faults;

  std::string SocketPath() const { return socket.empty() ? state + "/caisson.sock" : socket; }
  std::string ImagesRoot() const { return root + "/images"; }
  // <root>/checkpoints: archives that are being written or restored from; 0700. Each goes with what it is for.
  std::string CheckpointsDir() const { return root + "/checkpoints"; }
  std::string CheckpointDir(std::string_view container_id) const { return CheckpointsDir() + "/" + std::string(container_id); }
  std::string IndexPath() const { return root + "/caissond.db"; }
  std::string LockPath() const { return root + "/lock"; }
  // A folder for each template's keeper: its socket and log. 0700.
  std::string TemplateDir() const { return state + "/templates"; }
  std::string SeccompCacheDir() const { return state + "/seccomp"; }
  // <state>/pods/ID: the companion's socket and log, resolv.conf, hostname. 0700.
  std::string PodDir(std::string_view pod_id) const { return state + "/pods/" + std::string(pod_id); }
  // <state>/containers/ID: the OCI bundle. 0700.
  std::string ContainerDir(std::string_view container_id) const {
    return state + "/containers/" + std::string(container_id);
  }
  std::string NetnsPath(std::string_view pod_id) const { return state + "/netns/" + std::string(pod_id); }
};

// The defaults overridden by the TOML document `text` (of at most limits::kConfigFileBytes). Errors: kInvalidArgument
// that names `origin`, the line and the key.
Result<Config> ParseConfig(std::string_view text, std::string_view origin);
// Reads and parses `path`; absent is an error only if `must_exist`.
Result<Config> LoadConfig(const std::string& path, bool must_exist);
// What parsing cannot see: paths absolute, ranges, the default handler among the handlers.
Result<> ValidateConfig(const Config& config);
// The keys, as "table.key" of the file, whose values differ between two configurations; of handlers "handlers.NAME".
std::vector<std::string> ChangedKeys(const Config& before, const Config& after);
// The whole effective configuration as TOML that ParseConfig accepts.
std::string FormatConfig(const Config& config);

}  // namespace caisson::cri

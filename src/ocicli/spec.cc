// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "ocicli/command.h"
#include "sys/new_file.h"

namespace caisson::ocicli {
namespace {

// A container with a shell, to be changed by hand.
constexpr char kTemplate[] = R"json({
  "ociVersion": "1.2.0",
  "process": {
    "terminal": true,
    "user": {"uid": 0, "gid": 0},
    "args": ["sh"],
    "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
    "cwd": "/",
    "capabilities": {
      "bounding": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
      "effective": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
      "permitted": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    },
    "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
    "noNewPrivileges": true
  },
  "root": {"path": "rootfs", "readonly": true},
  "hostname": "caisson",
  "mounts": [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
     "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
  ],
  "linux": {
    "resources": {"devices": [{"allow": false, "access": "rwm"}]},
    "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
    "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
    "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
  }
}
)json";

// What a user without rights on the host can have: a user namespace with one user and group in it, the host's network and
// no limits.
void MakeRootless(Json* spec) {
  Json& linux_part = (*spec)["linux"];
  Json spaces = Json::array();
  for (const char* type : {"pid", "ipc", "uts", "mount", "cgroup", "user"}) spaces.push_back({{"type", type}});
  linux_part["namespaces"] = std::move(spaces);
  linux_part["uidMappings"] = {{{"containerID", 0}, {"hostID", geteuid()}, {"size", 1}}};
  linux_part["gidMappings"] = {{{"containerID", 0}, {"hostID", getegid()}, {"size", 1}}};
  linux_part.erase("resources");
  Json mounts = Json::array();
  for (Json mount : (*spec)["mounts"]) {
    std::string where = mount["destination"].get<std::string>();
    if (where == "/sys/fs/cgroup") continue;
    if (where == "/sys") mount = {{"destination", "/sys"}, {"type", "none"}, {"source", "/sys"}, {"options", {"rbind", "nosuid", "noexec", "nodev", "ro"}}};
    // Group 5 is not mapped.
    if (where == "/dev/pts") mount["options"] = {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"};
    mounts.push_back(std::move(mount));
  }
  (*spec)["mounts"] = std::move(mounts);
}

}  // namespace

Result<int> WriteSpec(const Context&, const Flags& flags) {
  Json spec = TRY(ParseJson(kTemplate));
  if (flags.On("rootless")) MakeRootless(&spec);
  std::string folder = flags.Given("bundle") ? flags.Text("bundle") : ".";
  TRY(sys::WriteNewFile(folder + "/config.json", Indented(spec)));
  return 0;
}

}  // namespace caisson::ocicli

// SPDX-License-Identifier: Apache-2.0
#include "cli/host_checks.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "base/strings.h"
#include "cli/output.h"

namespace caisson::cli {
namespace {

namespace fs = std::filesystem;

class Host {
 public:
  explicit Host(std::string root) : root_(std::move(root)) {}

  std::string Read(const std::string& path) const {
    std::ifstream file(root_ + path);
    std::stringstream text;
    text << file.rdbuf();
    return std::string(Trim(text.str()));
  }
  bool Exists(const std::string& path) const {
    std::error_code ignored;
    return fs::exists(root_ + path, ignored);
  }
  std::vector<std::string> List(const std::string& path) const {
    std::vector<std::string> names;
    std::error_code failed;
    for (fs::directory_iterator entry(root_ + path, failed), end; !failed && entry != end; entry.increment(failed)) {
      names.push_back(entry->path().filename());
    }
    return names;
  }
  std::string Path(const std::string& path) const { return root_ + path; }

 private:
  std::string root_;
};

HostCheck Kernel(const Host& host) {
  std::string release = host.Read("/proc/sys/kernel/osrelease");
  if (KernelAtLeast(release, 5, 10)) return {Verdict::kOk, "kernel", release, ""};
  return {Verdict::kFail, "kernel", release.empty() ? "unknown" : release, "use Linux 5.10 or newer"};
}

HostCheck Namespaces(const Host& host) {
  std::string missing;
  for (const char* name : {"mnt", "pid", "net", "ipc", "uts", "cgroup", "user"}) {
    if (!host.Exists(std::string("/proc/self/ns/") + name)) missing += std::string(missing.empty() ? "" : ", ") + name;
  }
  if (missing.empty()) return {Verdict::kOk, "namespaces", "mnt pid net ipc uts cgroup user", ""};
  return {Verdict::kFail, "namespaces", "missing: " + missing, "use a kernel built with these namespaces"};
}

HostCheck UserNamespaces(const Host& host) {
  std::string limit = host.Read("/proc/sys/user/max_user_namespaces");
  if (!limit.empty() && limit != "0") return {Verdict::kOk, "user namespaces", "up to " + limit, ""};
  return {Verdict::kWarn, "user namespaces", "switched off", "sysctl user.max_user_namespaces=65536, for pods with hostUsers: false"};
}

std::vector<HostCheck> Cgroups(const Host& host) {
  std::set<std::string> v1, v2;
  std::string unified;
  std::istringstream mounts(host.Read("/proc/self/mounts"));
  std::set<std::string> known = {"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "io", "devices", "freezer", "hugetlb"};
  for (std::string line; std::getline(mounts, line);) {
    auto words = Split(line, ' ');
    if (words.size() < 4) continue;
    if (words[2] == "cgroup2" && unified.empty()) unified = words[1];
    if (words[2] != "cgroup") continue;
    for (auto option : Split(words[3], ',')) {
      if (known.contains(std::string(option))) v1.insert(std::string(option));
    }
  }
  std::string controllers = unified.empty() ? "" : host.Read(unified + "/cgroup.controllers");
  for (auto word : Split(controllers, ' ')) {
    if (!word.empty()) v2.insert(std::string(word));
  }
  bool is_v2 = v1.empty() && !v2.empty();
  std::string mode = is_v2 ? "v2" : v1.empty() ? "none" : unified.empty() ? "v1" : "v1, hybrid";
  std::vector<HostCheck> checks;
  if (mode == "none") {
    checks.push_back({Verdict::kFail, "cgroups", "no hierarchy with controllers is mounted", "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 on /sys/fs/cgroup"});
    return checks;
  }
  checks.push_back({Verdict::kOk, "cgroups", mode, ""});
  const auto& have = is_v2 ? v2 : v1;
  std::string missing, missing_needed;
  for (const char* name : {"cpu", "cpuset", "memory", "pids", "hugetlb"}) {
    if (have.contains(name)) continue;
    (std::string_view(name) == "hugetlb" ? missing : missing_needed) += std::string(" ") + name;
  }
  if (!missing_needed.empty()) {
    checks.push_back({Verdict::kFail, "cgroup controllers", "missing:" + missing_needed, "enable them on the kernel's command line (cgroup_enable=…) or in the parent's cgroup.subtree_control"});
  } else if (!missing.empty()) {
    checks.push_back({Verdict::kWarn, "cgroup controllers", "missing:" + missing, "huge page limits of pods are ignored"});
  } else {
    checks.push_back({Verdict::kOk, "cgroup controllers", Join({have.begin(), have.end()}, " "), ""});
  }
  return checks;
}

HostCheck FileSystem(const Host& host, const std::string& name, Verdict otherwise, const std::string& why) {
  std::string all = host.Read("/proc/filesystems") + "\n";
  if (all.find("\t" + name + "\n") != std::string::npos) return {Verdict::kOk, name, "supported", ""};
  return {otherwise, name, "not in /proc/filesystems", "modprobe " + name + why};
}

HostCheck Seccomp(const Host& host) {
  std::string actions = host.Read("/proc/sys/kernel/seccomp/actions_avail");
  if (!actions.empty()) return {Verdict::kOk, "seccomp", "filters work", ""};
  return {Verdict::kFail, "seccomp", "not in this kernel", "use a kernel with CONFIG_SECCOMP_FILTER"};
}

HostCheck SecurityModules(const Host& host) {
  std::string fact;
  if (host.Read("/sys/module/apparmor/parameters/enabled").starts_with("Y")) fact = "AppArmor";
  if (host.Exists("/sys/fs/selinux/enforce")) fact += std::string(fact.empty() ? "" : ", ") + "SELinux";
  if (!fact.empty()) return {Verdict::kOk, "security modules", fact, ""};
  return {Verdict::kWarn, "security modules", "neither AppArmor nor SELinux is active", "pods that ask for a profile of one are refused"};
}

HostCheck Capabilities(const Host& host) {
  std::istringstream status(host.Read("/proc/self/status"));
  unsigned long long bounding = 0, effective = 0;
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("CapBnd:")) std::sscanf(line.c_str() + 7, "%llx", &bounding);
    if (line.starts_with("CapEff:")) std::sscanf(line.c_str() + 7, "%llx", &effective);
  }
  constexpr unsigned long long kSysAdmin = 1ULL << 21, kSysResource = 1ULL << 24;
  if (!(effective & kSysAdmin)) return {Verdict::kWarn, "capabilities", "this command does not run as root", "run `caisson doctor` as root to see what the daemon would have"};
  if (!(bounding & kSysResource)) {
    return {Verdict::kWarn, "capabilities", "CAP_SYS_RESOURCE is not to be had", "negative oom_score_adj and rlimits above the daemon's own are clamped; give the daemon this capability"};
  }
  return {Verdict::kOk, "capabilities", "root's", ""};
}

std::vector<HostCheck> Network(const Host& host, const std::string& conf_dir) {
  std::vector<HostCheck> checks;
  int configurations = 0;
  for (const auto& name : host.List(conf_dir)) {
    if (name.ends_with(".conflist") || name.ends_with(".conf") || name.ends_with(".json")) ++configurations;
  }
  if (configurations > 0) {
    checks.push_back({Verdict::kOk, "CNI configuration", fmt::format("{} in {}", configurations, conf_dir), ""});
  } else {
    checks.push_back({Verdict::kFail, "CNI configuration", "none in " + conf_dir, "install a network plugin of your cluster, or copy the example 10-caisson.conflist from Caisson's documentation folder there"});
  }
  std::string plugins;
  for (const char* dir : {"/opt/cni/bin", "/usr/lib/cni"}) {
    if (host.Exists(std::string(dir) + "/bridge") || !host.List(dir).empty()) plugins = dir;
  }
  checks.push_back(plugins.empty() ? HostCheck{Verdict::kFail, "CNI plugins", "none in /opt/cni/bin or /usr/lib/cni", "apt-get install containernetworking-plugins"}
                                   : HostCheck{Verdict::kOk, "CNI plugins", plugins, ""});
  bool iptables = host.Exists("/usr/sbin/iptables") || host.Exists("/sbin/iptables");
  checks.push_back(iptables ? HostCheck{Verdict::kOk, "iptables", "installed", ""}
                            : HostCheck{Verdict::kWarn, "iptables", "not installed", "apt-get install iptables: hostPort and masquerading need it"});
  bool forwards = host.Read("/proc/sys/net/ipv4/ip_forward") == "1";
  checks.push_back(forwards ? HostCheck{Verdict::kOk, "IP forwarding", "on", ""}
                            : HostCheck{Verdict::kWarn, "IP forwarding", "off", "sysctl net.ipv4.ip_forward=1 (the bridge plugin does it itself when it is a gateway)"});
  return checks;
}

HostCheck Kvm(const Host& host) {
  if (!host.Exists("/dev/kvm")) return {Verdict::kWarn, "KVM", "no /dev/kvm", "VM pods would run under software emulation; native pods do not need it"};
  return {Verdict::kOk, "KVM", "/dev/kvm is there (that it runs code at speed is another question, asked when a VM pod starts)", ""};
}

HostCheck Disk(const Host& host) {
  struct statvfs info {};
  std::string path = host.Path(host.Exists("/var/lib/caisson") ? "/var/lib/caisson" : "/var/lib");
  if (statvfs(path.c_str(), &info) != 0) return {Verdict::kWarn, "disk", path + " cannot be read", "make it"};
  uint64_t free_bytes = info.f_bavail * info.f_frsize;
  std::string fact = FormatBytes(free_bytes) + " free in " + path;
  if (free_bytes < (uint64_t{2} << 30)) return {Verdict::kWarn, "disk", fact, "images need room: free some, or set root in the configuration"};
  return {Verdict::kOk, "disk", fact, ""};
}

HostCheck Pressure(const Host& host) {
  if (host.Exists("/proc/pressure/cpu")) return {Verdict::kOk, "pressure stall information", "on", ""};
  return {Verdict::kWarn, "pressure stall information", "off", "boot with psi=1 to see pressure in the stats"};
}

}  // namespace

bool KernelAtLeast(const std::string& release, int major, int minor) {
  int have_major = 0, have_minor = 0;
  if (std::sscanf(release.c_str(), "%d.%d", &have_major, &have_minor) != 2) return false;
  return have_major > major || (have_major == major && have_minor >= minor);
}

std::vector<HostCheck> CheckHost(const std::string& root, const std::string& cni_conf_dir) {
  Host host(root);
  std::vector<HostCheck> checks = {Kernel(host), Namespaces(host), UserNamespaces(host)};
  for (auto& check : Cgroups(host)) checks.push_back(std::move(check));
  checks.push_back(FileSystem(host, "overlay", Verdict::kFail, ": images need it"));
  checks.push_back(FileSystem(host, "erofs", Verdict::kWarn, ": only VM pods need it"));
  checks.push_back(Seccomp(host));
  checks.push_back(SecurityModules(host));
  checks.push_back(Capabilities(host));
  for (auto& check : Network(host, cni_conf_dir)) checks.push_back(std::move(check));
  checks.push_back(Kvm(host));
  checks.push_back(Disk(host));
  checks.push_back(Pressure(host));
  return checks;
}

}  // namespace caisson::cli

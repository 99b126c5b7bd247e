// SPDX-License-Identifier: Apache-2.0
#include "cri/capabilities.h"

#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <set>

namespace caisson::cri {
namespace {

// In the order of their numbers.
constexpr std::array<const char*, 41> kNames = {
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"};

bool IsAll(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return name == "ALL" || name == "CAP_ALL";
}

// "net_admin", "NET_ADMIN", "CAP_NET_ADMIN" alike.
Result<std::string> Canonical(const std::string& name) {
  std::string upper = name;
  std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (!upper.starts_with("CAP_")) upper = "CAP_" + upper;
  if (std::find(kNames.begin(), kNames.end(), upper) == kNames.end()) return MakeError(Code::kInvalidArgument, "unknown capability '{}'", name.substr(0, 64));
  return upper;
}

std::vector<std::string> InOrder(const std::set<std::string>& set) {
  std::vector<std::string> names;
  for (const char* name : kNames) {
    if (set.contains(name)) names.emplace_back(name);
  }
  return names;
}

}  // namespace

const std::vector<std::string>& HostCapabilities() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> names;
    for (size_t i = 0; i < kNames.size(); ++i) {
      if (prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1) names.emplace_back(kNames[i]);
    }
    return names;
  }();
  return all;
}

const std::vector<std::string>& KnownCapabilities() {
  static const std::vector<std::string> all(kNames.begin(), kNames.end());
  return all;
}

const std::vector<std::string>& DefaultCapabilities() {
  static const std::vector<std::string> names = {
      "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
      "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"};
  return names;
}

Result<ContainerCapabilities> CapabilitiesOf(const runtime::v1::LinuxContainerSecurityContext& security,
                                             const std::vector<std::string>& defaults, const std::vector<std::string>& host) {
  std::set<std::string> set(defaults.begin(), defaults.end()), ambient;
  const auto& wanted = security.capabilities();
  if (security.privileged()) set = {host.begin(), host.end()};
  auto any_all = [](const auto& names) { return std::any_of(names.begin(), names.end(), IsAll); };
  if (any_all(wanted.add_capabilities())) set = {host.begin(), host.end()};
  if (any_all(wanted.drop_capabilities())) set.clear();
  for (const auto& name : wanted.add_capabilities()) {
    if (!IsAll(name)) set.insert(TRY(Canonical(name)));
  }
  for (const auto& name : wanted.add_ambient_capabilities()) {
    if (IsAll(name)) {
      ambient = set;
      continue;
    }
    std::string canonical = TRY(Canonical(name));
    set.insert(canonical);
    ambient.insert(canonical);
  }
  for (const auto& name : wanted.drop_capabilities()) {
    if (IsAll(name)) continue;
    std::string canonical = TRY(Canonical(name));
    set.erase(canonical);
    ambient.erase(canonical);
  }
  return ContainerCapabilities{InOrder(set), InOrder(ambient)};
}

}  // namespace caisson::cri

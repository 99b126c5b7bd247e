// SPDX-License-Identifier: Apache-2.0
#include "sys/sysctl.h"

#include <algorithm>

namespace caisson::sys {
namespace {

constexpr const char* kIpcSysctls[] = {"kernel.shmmax", "kernel.shmall", "kernel.shmmni", "kernel.shm_rmid_forced",
                                       "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem"};

bool CleanName(const std::string& name) {
  if (name.empty() || name.size() > 256 || name.find("..") != std::string::npos || name[0] == '/' || name[0] == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-' || c == '/';
  });
}

bool CleanValue(const std::string& value) {
  if (value.size() > 1024) return false;
  // "1024 65000" and its like are separated by a space or a tab.
  return std::all_of(value.begin(), value.end(), [](char c) { return c == '\t' || (c >= 0x20 && c != 0x7f); });
}

}  // namespace

Result<> CheckPodSysctl(const std::string& name, const std::string& value, bool host_network, bool host_ipc) {
  if (!CleanName(name) || !CleanValue(value)) {
    return MakeError(Code::kInvalidArgument, "sysctl '{}' has a name or value that cannot be", name.substr(0, 128));
  }
  std::string dotted = name;
  if (dotted.find('.') == std::string::npos || name.find('/') < name.find('.')) std::replace(dotted.begin(), dotted.end(), '/', '.');
  if (dotted.starts_with("net.")) {
    if (!host_network) return {};
    return MakeError(Code::kInvalidArgument, "sysctl '{}' would change the host's network, which the pod shares", name);
  }
  bool ipc = dotted.starts_with("fs.mqueue.") || std::find(std::begin(kIpcSysctls), std::end(kIpcSysctls), dotted) != std::end(kIpcSysctls);
  if (!ipc) return MakeError(Code::kInvalidArgument, "sysctl '{}' does not belong to a namespace of the pod", name);
  if (!host_ipc) return {};
  return MakeError(Code::kInvalidArgument, "sysctl '{}' would change the host's IPC namespace, which the pod shares", name);
}

}  // namespace caisson::sys

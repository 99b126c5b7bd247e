// SPDX-License-Identifier: Apache-2.0
#include "sys/sysctl.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>

#include "base/strings.h"
#include "base/unique_fd.h"

namespace caisson::sys {
namespace {

constexpr size_t kMaxName = 256, kMaxValue = 1024;
// ipc_namespaces(7); fs/mqueue/* comes on top.
constexpr std::string_view kIpcFiles[] = {"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem",          "kernel/shmall",
                                          "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced"};

bool IsNameByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.' || c == '/';
}

bool IsCleanFile(const std::string& file) {
  for (std::string_view part : Split(file, '/')) {
    if (part.empty() || part[0] == '.') return false;
  }
  return true;
}

}  // namespace

std::string SysctlFile(const std::string& name) {
  std::string file = name;
  size_t separator = name.find_first_of("./");
  if (separator == std::string::npos || name[separator] == '/') return file;
  for (char& c : file) c = c == '.' ? '/' : c == '/' ? '.' : c;
  return file;
}

Result<> CheckPodSysctl(const std::string& name, const std::string& value, bool host_network, bool host_ipc) {
  std::string file = SysctlFile(name);
  if (name.size() > kMaxName || !std::all_of(name.begin(), name.end(), IsNameByte) || !IsCleanFile(file)) {
    return MakeError(Code::kInvalidArgument, "'{}' cannot be a sysctl's name", name.substr(0, kMaxName));
  }
  bool printable = std::all_of(value.begin(), value.end(), [](char c) { return c == '\t' || (c >= 0x20 && c < 0x7f); });
  if (value.size() > kMaxValue || !printable) return MakeError(Code::kInvalidArgument, "sysctl '{}': its value cannot be one", name);
  if (file.starts_with("net/")) {
    if (!host_network) return {};
    return MakeError(Code::kInvalidArgument, "sysctl '{}' would change the host's network, which the pod shares", name);
  }
  bool ipc = file.starts_with("fs/mqueue/") || std::find(std::begin(kIpcFiles), std::end(kIpcFiles), file) != std::end(kIpcFiles);
  if (!ipc) return MakeError(Code::kInvalidArgument, "sysctl '{}' does not belong to a namespace of the pod", name);
  if (!host_ipc) return {};
  return MakeError(Code::kInvalidArgument, "sysctl '{}' would change the host's IPC namespace, which the pod shares", name);
}

Result<> WriteSysctl(const std::string& name, const std::string& value) {
  std::string path = "/proc/sys/" + SysctlFile(name);
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file || write(file.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size())) {
    return ErrnoError("set sysctl '{}' to '{}'", name, value);
  }
  return {};
}

}  // namespace caisson::sys

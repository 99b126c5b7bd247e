// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>

#include "cri/spec_parts.h"

namespace caisson::cri {

using nlohmann::json;
namespace v1 = runtime::v1;
namespace fs = std::filesystem;

namespace {

constexpr int kMaxDevices = 4096;

bool IsDevice(const struct stat& info) { return S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode); }

json Node(const std::string& path, const struct stat& info) {
  return {{"path", path}, {"type", S_ISBLK(info.st_mode) ? "b" : "c"}, {"major", major(info.st_rdev)}, {"minor", minor(info.st_rdev)},
          {"fileMode", info.st_mode & 0777}, {"uid", info.st_uid}, {"gid", info.st_gid}};
}

json Rule(bool allow, const char* type, json major_number, json minor_number, const char* access) {
  json rule = {{"allow", allow}, {"access", access}};
  if (type != nullptr) rule["type"] = type;
  if (!major_number.is_null()) rule["major"] = major_number;
  if (!minor_number.is_null()) rule["minor"] = minor_number;
  return rule;
}

struct Requested {
  std::string source, target, access;
  bool user_namespace = false, vm = false;
};

Result<> Add(DevicesPart* part, const Requested& device, const struct stat& info) {
  if (part->devices.size() + part->mounts.size() >= kMaxDevices) return MakeError(Code::kResourceExhausted, "more than {} devices", kMaxDevices);
  if (device.user_namespace) {
    part->mounts.push_back({{"destination", device.target}, {"type", "bind"}, {"source", device.source}, {"options", {"bind", "rprivate", "nosuid", "noexec"}}});
  } else {
    part->devices.push_back(Node(device.target, info));
    // The companion opens it (shim/guest_spec.h).
    if (device.vm) part->devices.back()["hostPath"] = device.source;
  }
  part->rules.push_back(Rule(true, S_ISBLK(info.st_mode) ? "b" : "c", major(info.st_rdev), minor(info.st_rdev), device.access.c_str()));
  return {};
}

// A device, or every device below a folder, as other runtimes take it.
Result<> AddRequested(DevicesPart* part, const v1::Device& device, bool user_namespace, bool vm) {
  std::string access = device.permissions().empty() ? "rwm" : device.permissions();
  if (access.find_first_not_of("rwm") != std::string::npos) return MakeError(Code::kInvalidArgument, "device '{}': permissions '{}' are not of \"rwm\"", device.host_path(), access.substr(0, 16));
  std::string target = device.container_path().empty() ? device.host_path() : device.container_path();
  struct stat info {};
  if (stat(device.host_path().c_str(), &info) != 0) return ErrnoError("device '{}'", device.host_path());
  if (IsDevice(info)) return Add(part, {device.host_path(), target, access, user_namespace, vm}, info);
  if (!S_ISDIR(info.st_mode)) return MakeError(Code::kInvalidArgument, "'{}' is no device", device.host_path());
  std::error_code failed;
  for (fs::recursive_directory_iterator at(device.host_path(), failed), end; !failed && at != end; at.increment(failed)) {
    if (lstat(at->path().c_str(), &info) == 0 && IsDevice(info)) {
      std::string path = at->path();
      TRY(Add(part, {path, target + path.substr(device.host_path().size()), access, user_namespace, vm}, info));
    }
  }
  return {};
}

// Every device of the host's /dev but terminals, which the container has of its own.
Result<> AddHost(DevicesPart* part) {
  std::error_code failed;
  for (fs::recursive_directory_iterator at("/dev", failed), end; !failed && at != end; at.increment(failed)) {
    std::string path = at->path();
    if (path == "/dev/pts" || path == "/dev/shm" || path == "/dev/mqueue" || path == "/dev/.lxc" || path == "/dev/fd") {
      at.disable_recursion_pending();
      continue;
    }
    struct stat info {};
    if (path != "/dev/console" && path != "/dev/ptmx" && lstat(path.c_str(), &info) == 0 && IsDevice(info)) part->devices.push_back(Node(path, info));
  }
  return {};
}

}  // namespace

Result<DevicesPart> DevicesOf(const v1::ContainerConfig& config, bool user_namespace, bool vm) {
  DevicesPart part;
  // runtime-spec config-linux.md "Allowed Device list", and what every container needs: its own terminals.
  part.rules = json::array({Rule(false, nullptr, nullptr, nullptr, "rwm"), Rule(true, "c", nullptr, nullptr, "m"), Rule(true, "b", nullptr, nullptr, "m")});
  for (auto [major_number, minor_number] : {std::pair(1, 3), {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}}) {
    part.rules.push_back(Rule(true, "c", major_number, minor_number, "rwm"));
  }
  part.rules.push_back(Rule(true, "c", 136, nullptr, "rwm"));  // /dev/pts
  if (config.linux().security_context().privileged()) {
    if (!vm) TRY(AddHost(&part));
    part.rules = json::array({Rule(true, nullptr, nullptr, nullptr, "rwm")});
  }
  for (const auto& device : config.devices()) TRY(AddRequested(&part, device, user_namespace, vm));
  return part;
}

}  // namespace caisson::cri

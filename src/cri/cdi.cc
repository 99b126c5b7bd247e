// SPDX-License-Identifier: Apache-2.0
#include "cri/cdi.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "sys/path.h"

namespace caisson::cri {

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr size_t kMaxFaults = 8;         // files that an error names
constexpr size_t kMaxDescribed = 1000;   // devices

struct File {
  std::string path;
  CdiSpec spec;
};

// Where a device is.
struct Place {
  size_t folder = 0;
  std::shared_ptr<const File> file;
  std::string conflict;  // another file of the same folder that has it; empty: none
};

std::string Ambiguity(const std::string& name, const Place& place) {
  return fmt::format("'{}' is in both '{}' and '{}'", name, place.file->path, place.conflict);
}

struct Known {
  std::map<std::string, Place> devices;  // "vendor/class=name"
  std::vector<std::string> faults;
};

std::string ExtensionOf(const std::string& path) { return fs::path(path).extension(); }

// Who may write a specification is root on this host: anything else than a file of somebody's own is refused.
Result<std::string> ReadSpec(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) return ErrnoError("open");
  struct stat info {};
  if (fstat(file.get(), &info) != 0) return ErrnoError("look at it");
  if (!S_ISREG(info.st_mode)) return MakeError(Code::kInvalidArgument, "it is not a regular file");
  if (info.st_mode & S_IWOTH) return MakeError(Code::kInvalidArgument, "anybody may write it");
  return sys::ReadAll(file.get(), limits::kCdiFileBytes);
}

Result<CdiSpec> LoadSpec(const std::string& path) {
  std::string text = TRY(ReadSpec(path));
  return ParseCdiSpec(text, ExtensionOf(path) == ".yaml" ? CdiFormat::kYaml : CdiFormat::kJson);
}

Result<std::vector<std::string>> FilesIn(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code failed;
  for (fs::directory_iterator at(folder, failed), end; !failed && at != end; at.increment(failed)) {
    std::string extension = ExtensionOf(at->path());
    if (extension != ".json" && extension != ".yaml") continue;
    paths.push_back(at->path());
    if (paths.size() > limits::kCdiFiles) return MakeError(Code::kResourceExhausted, "'{}' has more than {} CDI specifications", folder, limits::kCdiFiles);
  }
  if (failed && failed != std::errc::no_such_file_or_directory && failed != std::errc::not_a_directory) return SysError(failed.value(), fmt::format("read '{}'", folder));
  std::sort(paths.begin(), paths.end());
  return paths;
}

void AddDevices(const std::shared_ptr<const File>& file, size_t folder, Known* known) {
  for (const CdiDevice& device : file->spec.devices) {
    Place& place = known->devices[file->spec.kind + "=" + device.name];
    if (place.file && place.folder == folder) {
      if (place.conflict.empty()) place.conflict = file->path;
    } else {
      place = {folder, file, ""};
    }
  }
}

// Files that are broken take nothing from the others; they are named when a device is missing.
Result<> LoadFolder(const std::string& path, size_t folder, Known* known) {
  for (const std::string& file : TRY(FilesIn(path))) {
    auto spec = LoadSpec(file);
    if (!spec) {
      if (known->faults.size() < kMaxFaults) known->faults.push_back(fmt::format("'{}': {}", file, spec.error().message));
      continue;
    }
    AddDevices(std::make_shared<const File>(File{file, std::move(*spec)}), folder, known);
  }
  return {};
}

Result<Known> LoadAll(const std::vector<std::string>& dirs) {
  Known known;
  for (size_t folder = 0; folder < dirs.size(); ++folder) TRY(LoadFolder(dirs[folder], folder, &known));
  return known;
}

Error Unknown(const std::string& name, const std::vector<std::string>& dirs, const Known& known) {
  std::string text = fmt::format("CDI device '{}' is in no specification in {}", name, Join(dirs, ", "));
  if (!known.faults.empty()) text += "; not readable: " + Join(known.faults, "; ");
  return MakeError(Code::kNotFound, "{}", text);
}

Result<> CheckSupported(const CdiEdits& edits, const std::string& path) {
  if (edits.intel_rdt) return MakeError(Code::kUnimplemented, "'{}': intelRdt is not supported", path);
  if (edits.net_devices) return MakeError(Code::kUnimplemented, "'{}': netDevices are not supported", path);
  return {};
}

// What the specification leaves open is as the node on the host is.
Result<json> NodeOf(const CdiDeviceNode& node, const json& user) {
  CdiDeviceNode filled = node;
  bool whole = !node.type.empty() && (node.major != 0 || node.type == "p");
  struct stat info {};
  bool there = lstat(node.host_path.c_str(), &info) == 0;
  if (!there && !whole) return ErrnoError("CDI device node '{}'", node.host_path);
  if (there && !filled.file_mode) filled.file_mode = info.st_mode & 07777;
  if (!whole) {
    std::string type = S_ISBLK(info.st_mode) ? "b" : S_ISCHR(info.st_mode) ? "c" : S_ISFIFO(info.st_mode) ? "p" : "";
    if (type.empty()) return MakeError(Code::kInvalidArgument, "CDI device node '{}' is no device", node.host_path);
    bool same = filled.type.empty() || filled.type == type || (filled.type == "u" && type == "c");
    if (!same) return MakeError(Code::kInvalidArgument, "CDI device node '{}' is of type '{}', its specification says '{}'", node.host_path, type, filled.type);
    if (filled.type.empty()) filled.type = type;
    if (type != "p" && filled.major == 0) filled.major = major(info.st_rdev), filled.minor = minor(info.st_rdev);
  }
  json out = {{"path", filled.path}, {"type", filled.type}, {"fileMode", filled.file_mode.value_or(0666)}};
  if (filled.type != "p") out["major"] = filled.major, out["minor"] = filled.minor;
  // So that a container without root can use it: its own user owns what nobody else was named for.
  out["uid"] = filled.uid ? json(*filled.uid) : user["uid"];
  out["gid"] = filled.gid ? json(*filled.gid) : user["gid"];
  return out;
}

// In a user namespace nobody may make nodes: the host's is shown, as the devices of the CRI are.
CdiMount AsMount(const CdiDeviceNode& node) {
  CdiMount mount;
  mount.host_path = node.host_path;
  mount.container_path = node.path;
  mount.options = {"bind", "rprivate", "nosuid", "noexec"};
  return mount;
}

bool HasUserNamespace(const json& spec) {
  const json spaces = spec["linux"].value("namespaces", json::array());
  return std::any_of(spaces.begin(), spaces.end(), [](const json& space) { return space["type"] == "user"; });
}

Result<> AddNode(const CdiDeviceNode& node, bool as_mount, json* spec) {
  json device = TRY(NodeOf(node, (*spec)["process"]["user"]));
  json kept = json::array();
  for (auto& other : (*spec)["linux"]["devices"]) {
    if (other["path"] != device["path"]) kept.push_back(std::move(other));
  }
  if (device["type"] != "p" && !node.permissions.empty()) {
    (*spec)["linux"]["resources"]["devices"].push_back(
        {{"allow", true}, {"type", device["type"] == "u" ? "c" : device["type"]}, {"major", device["major"]}, {"minor", device["minor"]}, {"access", node.permissions}});
  }
  if (!as_mount) kept.push_back(std::move(device));
  (*spec)["linux"]["devices"] = std::move(kept);
  return {};
}

void SetVariable(const std::string& variable, json* env) {
  std::string prefix = variable.substr(0, variable.find('=') + 1);
  for (auto& other : *env) {
    if (other.get_ref<const std::string&>().starts_with(prefix)) {
      other = variable;
      return;
    }
  }
  env->push_back(variable);
}

// In the place of what is mounted there already; parents first, as container_mounts.cc leaves them.
void AddMounts(const std::vector<CdiMount>& mounts, json* spec) {
  if (mounts.empty()) return;
  std::vector<json> all = (*spec)["mounts"];
  for (const CdiMount& mount : mounts) {
    std::erase_if(all, [&](const json& other) { return other["destination"] == mount.container_path; });
    json added = {{"destination", mount.container_path}, {"source", mount.host_path}, {"options", mount.options}};
    added["type"] = mount.type.empty() ? "bind" : mount.type;
    all.push_back(std::move(added));
  }
  std::stable_sort(all.begin(), all.end(), [](const json& a, const json& b) {
    auto depth = [](const json& mount) {
      const auto& path = mount["destination"].get_ref<const std::string&>();
      return std::count(path.begin(), path.end(), '/');
    };
    return depth(a) < depth(b);
  });
  (*spec)["mounts"] = std::move(all);
}

void AddHook(const CdiHook& hook, json* spec) {
  json added = {{"path", hook.path}};
  if (!hook.args.empty()) added["args"] = hook.args;
  if (!hook.env.empty()) added["env"] = hook.env;
  if (hook.timeout_seconds > 0) added["timeout"] = hook.timeout_seconds;
  (*spec)["hooks"][hook.name].push_back(std::move(added));
}

}  // namespace

Result<CdiEdits> FindCdiDevices(const std::vector<std::string>& dirs, const std::vector<std::string>& names) {
  CdiEdits edits;
  if (names.empty()) return edits;
  if (names.size() > limits::kCdiDevices) return MakeError(Code::kResourceExhausted, "more than {} CDI devices", limits::kCdiDevices);
  // Nothing is read for a name that cannot be.
  for (const std::string& name : names) TRY(ParseCdiName(name));
  Known known = TRY(LoadAll(dirs));
  std::set<std::string> given;
  std::set<const File*> applied;
  for (const std::string& name : names) {
    if (!given.insert(name).second) continue;
    auto found = known.devices.find(name);
    if (found == known.devices.end()) return Unknown(name, dirs, known);
    const Place& place = found->second;
    if (!place.conflict.empty()) return MakeError(Code::kFailedPrecondition, "CDI device {}", Ambiguity(name, place));
    const CdiSpec& spec = place.file->spec;
    const CdiDevice* device = spec.Find(TRY(ParseCdiName(name)).device);
    if (applied.insert(place.file.get()).second) {
      TRY(CheckSupported(spec.edits, place.file->path));
      edits.Append(spec.edits);
    }
    TRY(CheckSupported(device->edits, place.file->path));
    edits.Append(device->edits);
  }
  return edits;
}

json DescribeCdi(const std::vector<std::string>& dirs) {
  Known known;
  json folders = json::array();
  for (size_t folder = 0; folder < dirs.size(); ++folder) {
    auto loaded = LoadFolder(dirs[folder], folder, &known);
    folders.push_back({{"path", dirs[folder]}, {"devices", json::array()}, {"error", loaded ? json(nullptr) : json(loaded.error().message)}});
  }
  size_t left = kMaxDescribed;
  for (const auto& [name, place] : known.devices) {
    if (left-- == 0) break;
    folders[place.folder]["devices"].push_back(name);
    if (!place.conflict.empty()) known.faults.push_back(Ambiguity(name, place));
  }
  return {{"specDirs", std::move(folders)}, {"faults", std::move(known.faults)}};
}

Result<> ApplyCdi(const CdiEdits& edits, json* spec) {
  for (const std::string& variable : edits.env) SetVariable(variable, &(*spec)["process"]["env"]);
  const bool as_mounts = HasUserNamespace(*spec);
  std::vector<CdiMount> mounts;
  for (const CdiDeviceNode& node : edits.device_nodes) {
    TRY(AddNode(node, as_mounts, spec));
    if (as_mounts) mounts.push_back(AsMount(node));
  }
  mounts.insert(mounts.end(), edits.mounts.begin(), edits.mounts.end());
  AddMounts(mounts, spec);
  for (const CdiHook& hook : edits.hooks) AddHook(hook, spec);
  json& groups = (*spec)["process"]["user"]["additionalGids"];
  for (uint32_t gid : edits.additional_gids) {
    if (std::find(groups.begin(), groups.end(), json(gid)) == groups.end()) groups.push_back(gid);
  }
  return {};
}

}  // namespace caisson::cri

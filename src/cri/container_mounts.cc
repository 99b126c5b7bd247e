// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "base/limits.h"
#include "base/strings.h"
#include "cri/image_volume.h"
#include "cri/relabel.h"
#include "cri/spec_parts.h"
#include "sys/mountinfo.h"

namespace caisson::cri {

using nlohmann::json;
namespace v1 = runtime::v1;

namespace {

constexpr int kMaxMounts = 4096;

json Mount(const char* destination, const char* type, const std::string& source, std::vector<std::string> options) {
  return {{"destination", destination}, {"type", type}, {"source", source}, {"options", std::move(options)}};
}

// "/a//b/./c/" to "/a/b/c"; what leads up is refused: a destination is a place in the container.
Result<std::string> CleanDestination(const std::string& path) {
  if (path.empty() || path.size() >= limits::kPathBytes || path.find('\0') != std::string::npos) {
    return MakeError(Code::kInvalidArgument, "mount destination '{}' is no path", path.substr(0, 64));
  }
  std::string clean;
  for (std::string_view part : Split(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") return MakeError(Code::kInvalidArgument, "mount destination '{}' has a '..'", path);
    clean += "/" + std::string(part);
  }
  if (clean.empty()) return MakeError(Code::kInvalidArgument, "a mount cannot take the place of the root");
  return clean;
}

// The mount that `path` is on is shared or a slave: what propagation from or to the host needs.
Result<> CheckSourcePropagation(const std::string& path, bool shared) {
  std::error_code failed;
  std::string real = std::filesystem::canonical(path, failed);
  if (failed) return SysError(failed.value(), fmt::format("mount source '{}'", path));
  auto table = TRY(sys::ReadMountInfo());
  const sys::MountInfo* best = nullptr;
  for (const auto& entry : table) {
    bool above = entry.mount_point == "/" || real == entry.mount_point || real.starts_with(entry.mount_point + "/");
    if (above && (best == nullptr || entry.mount_point.size() >= best->mount_point.size())) best = &entry;
  }
  auto has = [&](const char* field) {
    return best != nullptr && std::any_of(best->optional.begin(), best->optional.end(), [&](const std::string& text) { return text.starts_with(field); });
  };
  bool is_shared = has("shared:"), is_slave = has("master:");
  if (is_shared || (!shared && is_slave)) return {};
  return MakeError(Code::kFailedPrecondition, "mount source '{}' is on '{}', which is not a {} mount", path,
                   best == nullptr ? "/" : best->mount_point, shared ? "shared" : "shared or slave");
}

Result<std::string> PropagationOf(const v1::Mount& mount, std::string* rootfs) {
  switch (mount.propagation()) {
    case v1::PROPAGATION_PRIVATE: return std::string("rprivate");
    case v1::PROPAGATION_HOST_TO_CONTAINER:
      TRY(CheckSourcePropagation(mount.host_path(), false));
      if (rootfs->empty()) *rootfs = "rslave";
      return std::string("rslave");
    case v1::PROPAGATION_BIDIRECTIONAL:
      TRY(CheckSourcePropagation(mount.host_path(), true));
      *rootfs = "rshared";
      return std::string("rshared");
    default: return MakeError(Code::kInvalidArgument, "mount '{}': propagation {} is not known", mount.container_path(), static_cast<int>(mount.propagation()));
  }
}

// CRI Mount.recursive_read_only.
Result<> CheckRecursive(const v1::Mount& mount) {
  if (!mount.recursive_read_only() || (mount.readonly() && mount.propagation() == v1::PROPAGATION_PRIVATE)) return {};
  return MakeError(Code::kInvalidArgument, "mount '{}': recursive_read_only needs readonly and private propagation", mount.container_path());
}

// What the mount's own mappings ask for, if it has any.
Result<> MapIds(const v1::Mount& mount, const std::string& destination, json* planned) {
  if (mount.uidmappings().empty() != mount.gidmappings().empty()) {
    return MakeError(Code::kInvalidArgument, "mount '{}' maps the ids of {}, but not those of {}", destination,
                     mount.uidmappings().empty() ? "groups" : "users", mount.uidmappings().empty() ? "users" : "groups");
  }
  TRY(CheckIdMappings(mount.uidmappings(), fmt::format("mount '{}': uidMappings", destination)));
  TRY(CheckIdMappings(mount.gidmappings(), fmt::format("mount '{}': gidMappings", destination)));
  if (mount.uidmappings().empty()) return {};
  (*planned)["uidMappings"] = MappingsJson(mount.uidmappings());
  (*planned)["gidMappings"] = MappingsJson(mount.gidmappings());
  return {};
}

// Always read-only and without programs (Kubernetes' ImageVolumeSource), whatever `readonly` says. The init mounts it in the
// container's own mount namespace, so that nothing of it is seen, or can be left, on the host. In a pod with a user namespace
// its files belong to whom they belong in the image, as those of the root file system do. In a VM the layers are disks, each an
// option of its own, topmost first.
Result<json> FromImage(const v1::Mount& mount, const std::string& destination, const std::vector<std::string>& layers, const PodRecord& pod) {
  if (layers.empty()) return MakeError(Code::kInternal, "mount '{}': its image is not prepared", destination);
  json planned = Mount(destination.c_str(), "caisson-image", mount.image().image(), {"ro", "nosuid", "nodev", "noexec", "rprivate"});
  if (!pod.has_vm()) planned["options"].push_back("lowerdir=" + TRY(LowerDirOption(layers)));
  for (size_t i = 0; pod.has_vm() && i < layers.size(); ++i) planned["options"].push_back("erofs=" + layers[i]);
  if (!mount.image_sub_path().empty()) planned["options"].push_back("subpath=" + mount.image_sub_path());
  TRY(MapIds(mount, destination, &planned));
  if (mount.uidmappings().empty() && HasUserNamespace(pod.config())) planned["options"].push_back("idmap");  // as the spec's own
  return planned;
}

// A bind mount.
Result<json> FromHost(const v1::Mount& mount, const std::string& destination, const std::string& selinux_level, std::string* rootfs) {
  json mapped = json::object();
  TRY(MapIds(mount, destination, &mapped));
  const std::string& source = mount.host_path();
  if (source.empty() || source[0] != '/') return MakeError(Code::kInvalidArgument, "mount '{}': source '{}' is not an absolute path", destination, source);
  struct stat info {};
  if (stat(source.c_str(), &info) != 0) {
    // A source that is not there is made, as other runtimes do and the conformance suite expects.
    std::error_code failed;
    std::filesystem::create_directories(source, failed);
    if (failed) return SysError(failed.value(), fmt::format("mount '{}': make its source '{}'", destination, source));
  }
  if (mount.selinux_relabel() && HasSelinux()) TRY(Relabel(source, FileLabel(selinux_level)));
  std::vector<std::string> options = {"rbind", TRY(PropagationOf(mount, rootfs))};
  options.emplace_back(mount.recursive_read_only() ? "rro" : mount.readonly() ? "ro" : "rw");
  json made = Mount(destination.c_str(), "bind", source, std::move(options));
  made.update(mapped);
  return made;
}

json Defaults(const ContainerSpecInputs& inputs) {
  const auto& config = inputs.container.config();
  const auto& security = config.linux().security_context();
  bool host_ipc = inputs.pod.config().linux().security_context().namespace_options().ipc() == v1::NODE;
  const char* access = security.privileged() ? "rw" : "ro";
  json mounts = json::array();
  mounts.push_back(Mount("/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}));
  mounts.push_back(Mount("/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}));
  std::vector<std::string> pts = {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"};
  // A small user namespace may not have the group "tty".
  if (HasUserNamespace(inputs.pod.config()) && !ToHostId(UserNamespaceOf(inputs.pod.config()).gids(), 5)) pts.pop_back();
  mounts.push_back(Mount("/dev/pts", "devpts", "devpts", std::move(pts)));
  mounts.push_back(Mount("/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}));
  mounts.push_back(Mount("/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", access}));
  mounts.push_back(Mount("/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", access}));
  if (host_ipc) {
    mounts.push_back(Mount("/dev/shm", "bind", "/dev/shm", {"rbind", "rprivate"}));
  } else {
    mounts.push_back(Mount("/dev/shm", "caisson-shm", "shm", {"nosuid", "noexec", "nodev"}));
  }
  const char* files = security.readonly_rootfs() ? "ro" : "rw";
  for (const char* name : {"hostname", "hosts", "resolv.conf"}) {
    mounts.push_back(Mount((std::string("/etc/") + name).c_str(), "bind", inputs.pod_dir + "/" + name, {"rbind", "rprivate", files}));
  }
  return mounts;
}

// Whoever is root in a user namespace may mount, and then on the host too.
Result<> CheckNotShared(const v1::ContainerConfig& config) {
  for (const auto& mount : config.mounts()) {
    if (mount.propagation() != v1::PROPAGATION_BIDIRECTIONAL) continue;
    return MakeError(Code::kInvalidArgument, "mount '{}': a pod with a user namespace cannot have bidirectional propagation", mount.container_path());
  }
  return {};
}

}  // namespace

json MappingsJson(const IdMappings& mappings) {
  json list = json::array();
  for (const auto& mapping : mappings) {
    list.push_back({{"containerID", mapping.container_id()}, {"hostID", mapping.host_id()}, {"size", mapping.length()}});
  }
  return list;
}

Result<MountsPart> MountsOf(const ContainerSpecInputs& inputs) {
  const auto& config = inputs.container.config();
  if (config.mounts_size() > kMaxMounts) return MakeError(Code::kResourceExhausted, "more than {} mounts", kMaxMounts);
  if (HasUserNamespace(inputs.pod.config())) TRY(CheckNotShared(config));
  MountsPart part;
  std::vector<json> requested;
  const std::string& level = config.linux().security_context().selinux_options().level();
  for (int i = 0; i < config.mounts_size(); ++i) {
    const v1::Mount& mount = config.mounts(i);
    auto index = static_cast<size_t>(i);
    const auto& layers = index < inputs.image_volumes.size() ? inputs.image_volumes[index] : std::vector<std::string>();
    std::string destination = TRY(CleanDestination(mount.container_path()));
    TRY(CheckRecursive(mount));
    requested.push_back(IsImageVolume(mount) ? TRY(FromImage(mount, destination, layers, inputs.pod))
                                             : TRY(FromHost(mount, destination, level, &part.rootfs_propagation)));
  }
  std::vector<json> all;
  for (const auto& mount : Defaults(inputs)) {
    bool replaced = std::any_of(requested.begin(), requested.end(), [&](const json& other) { return other["destination"] == mount["destination"]; });
    if (!replaced) all.push_back(mount);
  }
  all.insert(all.end(), requested.begin(), requested.end());
  // Parents first, else they would hide their children; otherwise in the order given.
  std::stable_sort(all.begin(), all.end(), [](const json& a, const json& b) {
    auto depth = [](const json& mount) { return std::count(mount["destination"].get_ref<const std::string&>().begin(), mount["destination"].get_ref<const std::string&>().end(), '/'); };
    return depth(a) < depth(b);
  });
  for (auto& mount : all) part.mounts.push_back(std::move(mount));
  return part;
}

}  // namespace caisson::cri

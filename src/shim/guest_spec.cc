// SPDX-License-Identifier: Apache-2.0
#include "shim/guest_spec.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/bad.h"
#include "base/json.h"
#include "base/sha256.h"
#include "base/strings.h"

namespace caisson::shim {
namespace {

using json = nlohmann::json;

// What every runtime puts into a container's /dev by itself (runtime-spec, config-linux.md "Default Devices").
constexpr const char* kDefaultDevices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/console", "/dev/ptmx"};

constexpr std::string_view kErofs = "erofs=";
constexpr size_t kSerialBytes = 20;
constexpr int64_t kLeastOomScore = -1000, kMostOomScore = 1000;  // proc(5)

Error Unsupported(std::string_view id, const std::string& what) {
  return MakeError(Code::kFailedPrecondition, "container '{}' of a VM pod cannot have {}; use a handler whose sandbox is native", id, what);
}

// The pod's are the guest's own; a path of a PID namespace is the guest's already: its processes' ids are what the agent told.
Result<> RewriteNamespaces(std::string_view id, json* linux) {
  json kept = json::array();
  bool pid = false;
  for (auto& space : (*linux)["namespaces"]) {
    std::string type = space.value("type", ""), path = space.value("path", "");
    if (type == "user") return Unsupported(id, "a user namespace");
    if (type == "network" || type == "ipc" || type == "uts") continue;
    pid = pid || type == "pid";
    kept.push_back(std::move(space));
  }
  if (!pid) return Unsupported(id, "the host's PID namespace");
  (*linux)["namespaces"] = std::move(kept);
  return {};
}

bool IsDevice(const json& entry, int64_t major, int64_t minor) {
  return entry.value("type", "") == "b" && entry.value("major", int64_t{-1}) == major && entry.value("minor", int64_t{-1}) == minor;
}

bool MayWrite(const json& linux, int64_t major, int64_t minor) {
  bool may = false;
  for (const auto& rule : linux.value("resources", json::object()).value("devices", json::array())) {
    if (IsDevice(rule, major, minor)) may = rule.value("allow", false) && rule.value("access", "").find('w') != std::string::npos;
  }
  return may;
}

Result<> RewriteDevices(std::string_view id, json* linux, std::vector<GuestDisk>* disks) {
  if (!linux->contains("devices")) return {};
  for (auto& device : (*linux)["devices"]) {
    std::string path = device.value("path", "");
    if (device.contains("hostPath") && device.value("type", "") == "b") {
      GuestDisk disk{device["hostPath"].get<std::string>(), device.value("major", int64_t{-1}), device.value("minor", int64_t{-1}), true};
      disk.read_only = !MayWrite(*linux, disk.major, disk.minor);
      if (disk.major < 0 || disk.minor < 0) return Bad("container '{}': device '{}' without numbers", id, path);
      device.erase("hostPath");
      disks->push_back(std::move(disk));
      continue;
    }
    bool usual = std::any_of(std::begin(kDefaultDevices), std::end(kDefaultDevices), [&](const char* one) { return path == one; });
    if (!usual) return Unsupported(id, fmt::format("the host's device '{}'", path));
  }
  return {};
}

bool Has(const json& options, std::string_view word) {
  return std::any_of(options.begin(), options.end(), [&](const json& option) { return option == word; });
}

// The layers' disks are where the agent mounts disks; they are no paths that overlayfs would have to be spoken to with care.
Result<> RewriteImage(std::string_view id, json* mount, std::vector<std::string>* layers) {
  json options = json::array();
  std::vector<std::string> lower;
  for (auto& option : (*mount)["options"]) {
    auto word = option.get<std::string>();
    if (!word.starts_with(kErofs)) {
      if (word.starts_with("lowerdir=")) return Bad("container '{}': an image volume with a folder of the host's", id);
      options.push_back(std::move(word));
      continue;
    }
    layers->push_back(word.substr(kErofs.size()));
    lower.push_back(fmt::format("/run/caisson/layers/{}", LayerSerial(layers->back())));
  }
  if (lower.empty()) return Bad("container '{}': an image volume without layers", id);
  // overlayfs wants two where it has no upper folder; the agent keeps an empty one.
  if (lower.size() == 1) lower.emplace_back("/run/caisson/empty");
  options.push_back("lowerdir=" + Join(lower, ":"));
  (*mount)["options"] = std::move(options);
  return {};
}

Result<> RewriteMounts(std::string_view id, const KindOf& kind_of, json* spec, GuestSpec* made) {
  for (auto& mount : (*spec)["mounts"]) {
    std::string type = mount.value("type", ""), source = mount.value("source", "");
    if (type == "caisson-image") {
      TRY(RewriteImage(id, &mount, &made->image_layers));
      continue;
    }
    json options = mount.value("options", json::array());
    if (type != "bind" && !Has(options, "bind") && !Has(options, "rbind")) continue;
    bool read_only = Has(options, "ro") || Has(options, "rro");
    GuestVolume volume{source, VolumeName(source), kind_of(source, read_only), read_only};
    mount["type"] = "bind";
    mount["source"] = GuestVolumePath(volume);
    made->volumes.push_back(std::move(volume));
  }
  return {};
}

void DropHostCpus(json* resources) {
  if (!resources->contains("cpu")) return;
  // Numbers of the host's CPUs and memory nodes mean nothing in there.
  (*resources)["cpu"].erase("cpus");
  (*resources)["cpu"].erase("mems");
}

bool MayAdministerNetwork(const json& spec) {
  auto bounding = spec.value("process", json::object()).value("capabilities", json::object()).value("bounding", json::array());
  return Has(bounding, "CAP_NET_ADMIN");
}

Result<GuestSpec> Rewrite(std::string_view id, const KindOf& kind_of, json* spec) {
  GuestSpec made;
  json& linux = spec->at("linux");
  TRY(RewriteNamespaces(id, &linux));
  TRY(RewriteDevices(id, &linux, &made.disks));
  TRY(RewriteMounts(id, kind_of, spec, &made));
  if (linux.contains("resources")) DropHostCpus(&linux["resources"]);
  if (linux.contains("seccomp")) {
    made.seccomp = TRY(oci::ParseSeccomp(linux["seccomp"]));
    linux.erase("seccomp");
  }
  if (spec->contains("hooks")) return Unsupported(id, "hooks, which run on the host");
  linux["cgroupsPath"] = fmt::format("/pod/{}", id);
  for (const char* key : {"uidMappings", "gidMappings", "mountLabel", "intelRdt"}) linux.erase(key);
  for (const char* key : {"apparmorProfile", "selinuxLabel"}) {
    if (spec->contains("process")) (*spec)["process"].erase(key);
  }
  made.root_path = (*spec)["root"].value("path", "rootfs");
  (*spec)["root"]["path"] = "rootfs";
  json score = spec->value("process", json::object()).value("oomScoreAdj", json());
  if (score.is_number_integer()) made.oom_score_adj = static_cast<int>(std::clamp<int64_t>(score.get<int64_t>(), kLeastOomScore, kMostOomScore));
  made.wants_modules = MayAdministerNetwork(*spec);
  made.config_json = DumpJson(*spec);
  return made;
}

}  // namespace

std::string VolumeName(const std::string& source) { return HexEncode(Sha256(source)).substr(0, 32); }

std::string GuestVolumePath(const GuestVolume& volume) {
  if (volume.kind == VolumeKind::kMemory) return fmt::format("/run/caisson/memory/{}", volume.name);
  if (volume.kind == VolumeKind::kShared) return fmt::format("/run/caisson/shared/{}", volume.name);
  return fmt::format("/run/caisson/volumes/{}{}", volume.name, volume.kind == VolumeKind::kFile ? fmt::format("/{}", kSingleFile) : "");
}

std::string LayerSerial(const std::string& layer) { return HexEncode(Sha256(layer)).substr(0, kSerialBytes); }

Result<GuestSpec> MakeGuestSpec(std::string_view container_id, std::string_view host_config,
                                const KindOf& kind_of) {
  json spec = TRY(ParseJson(host_config));
  // What is inside is checked by whoever parses the result; here it need only not be of another type.
  try {
    return Rewrite(container_id, kind_of, &spec);
  } catch (const json::exception& e) {
    return Bad("container '{}': config.json: {}", container_id, e.what());
  }
}

std::string DiskSerial(const GuestDisk& disk, uint32_t n) { return fmt::format("b{}x{}n{}", disk.major, disk.minor, n % 1'000'000); }

Result<std::string> NumberDisks(std::string_view config_json, const std::vector<GuestDisk>& disks,
                                const std::vector<std::pair<uint32_t, uint32_t>>& numbers) {
  if (numbers.size() != disks.size()) return Bad("the guest has numbers of {} disks instead of {}", numbers.size(), disks.size());
  json spec = TRY(ParseJson(config_json));
  try {
    json& linux = spec.at("linux");
    std::vector<json*> entries;
    for (json* list : {&linux["devices"], &linux["resources"]["devices"]}) {
      for (json& entry : *list) entries.push_back(&entry);
    }
    for (json* entry : entries) {
      for (size_t i = 0; i < disks.size(); ++i) {
        if (!IsDevice(*entry, disks[i].major, disks[i].minor)) continue;
        (*entry)["major"] = numbers[i].first;
        (*entry)["minor"] = numbers[i].second;
        break;  // a disk of the guest's may have the numbers of another one of the host's
      }
    }
  } catch (const json::exception& e) {
    return Bad("config.json: {}", e.what());
  }
  return DumpJson(spec);
}

Result<std::string> MakeGuestResources(std::string_view host_resources) {
  json resources = TRY(ParseJson(host_resources));
  if (!resources.is_object()) return Bad("the resources are no JSON object");
  DropHostCpus(&resources);
  return DumpJson(resources);
}

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
#include "shim/foreign_spec.h"

#include <nlohmann/json.hpp>

#include "base/bad.h"
#include "base/cgroup_path.h"
#include "base/json.h"
#include "base/strings.h"
#include "oci/foreign_config.h"
#include "oci/spec.h"

namespace caisson::shim {
namespace {

using json = nlohmann::json;

constexpr std::string_view kLowerDirs = "lowerdir=", kSubPathOption = "subpath=";
constexpr char kNothingMayBeSeen[] = R"(["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
  "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"])";
constexpr char kNothingMayBeWritten[] = R"(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"])";

json MountOn(const char* destination, const char* type, const std::string& source, std::vector<std::string> options) {
  return {{"destination", destination}, {"type", type}, {"source", source}, {"options", std::move(options)}};
}

json NamespacesOfPod(const SandboxContainer& container, const pod::v1::SandboxOptions& options) {
  auto of_companion = [&](const char* type, const char* file) {
    return json{{"type", type}, {"path", fmt::format("/proc/{}/ns/{}", container.companion, file)}};
  };
  json spaces = json::array({json{{"type", "pid"}}, json{{"type", "mount"}}});
  if (!options.host_network()) spaces.push_back(of_companion("network", "net"));
  if (!options.host_ipc()) spaces.push_back(of_companion("ipc", "ipc"));
  if (!options.hostname().empty()) spaces.push_back(of_companion("uts", "uts"));
  return spaces;
}

// The layers of an image below one another, read-only. One alone is no overlay.
Result<> MakeImageMount(json* mount) {
  std::string destination = mount->value("destination", "");
  json options = json::array();
  std::string layers;
  for (const auto& option : mount->value("options", json::array())) {
    std::string word = option.is_string() ? option.get<std::string>() : "";
    if (word.starts_with(kSubPathOption)) {
      return MakeError(Code::kUnimplemented, "mount '{}': a part of an image cannot be mounted by a runtime of another project's", destination);
    }
    if (word.starts_with(kLowerDirs)) {
      layers = word.substr(kLowerDirs.size());
    } else {
      options.push_back(word);
    }
  }
  if (layers.empty()) return Bad("mount '{}': an image without layers", destination);
  const bool one = layers.find(':') == std::string::npos;
  options.push_back(one ? "rbind" : fmt::format("{}{}", kLowerDirs, layers));
  (*mount)["type"] = one ? "bind" : "overlay";
  (*mount)["source"] = one ? layers : "overlay";
  (*mount)["options"] = std::move(options);
  return {};
}

Result<> AdaptMounts(const std::string& shm, json* mounts) {
  for (auto& mount : *mounts) {
    std::string type = mount.value("type", "");
    if (mount.contains("uidMappings") || mount.contains("gidMappings")) {
      return MakeError(Code::kUnimplemented, "mount '{}': id-mapped mounts are not supported with a runtime of another project's", mount.value("destination", ""));
    }
    if (type == "caisson-image") TRY(MakeImageMount(&mount));
    if (type != "caisson-shm") continue;
    mount["type"] = "bind";
    mount["source"] = shm;
    mount["options"].push_back("rbind");
  }
  return {};
}

}  // namespace

std::string SandboxContainerSpec(const SandboxContainer& container, const pod::v1::SandboxOptions& options) {
  json spec = {{"ociVersion", oci::kForeignVersion}, {"root", {{"path", "rootfs"}, {"readonly", true}}}};
  spec["process"] = {{"args", {kPauseProgram, "pause"}}, {"cwd", "/"}, {"user", {{"uid", 0}, {"gid", 0}}},
                     {"env", {"PATH=/"}}, {"noNewPrivileges", true},
                     {"capabilities", {{"bounding", json::array()}}}};
  spec["mounts"] = json::array({MountOn("/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}),
                                MountOn("/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}),
                                MountOn(kPauseProgram, "bind", container.program, {"bind", "ro", "nosuid", "nodev"})});
  spec["annotations"] = {{"io.kubernetes.cri.container-type", "sandbox"}, {"io.kubernetes.cri.sandbox-id", container.id}};
  for (const auto& [name, value] : options.runtime().annotations()) spec["annotations"][name] = value;
  // What a runtime with one sandbox for a pod has no other way to know.
  if (!options.hostname().empty()) spec["hostname"] = options.hostname();
  if (!options.host_ipc()) spec["mounts"].push_back(MountOn("/dev/shm", "bind", container.shm, {"rbind", "nosuid", "noexec", "nodev"}));
  json& out = spec["linux"];
  out["namespaces"] = NamespacesOfPod(container, options);
  out["cgroupsPath"] = container.cgroup_path;
  out["resources"]["devices"] = json::array({json{{"allow", false}, {"access", "rwm"}}});
  out["maskedPaths"] = json::parse(kNothingMayBeSeen);
  out["readonlyPaths"] = json::parse(kNothingMayBeWritten);
  return DumpJson(spec);
}

Result<ForeignSpec> MakeForeignSpec(std::string_view config_json, const std::string& shm) {
  const oci::Spec parsed = TRY(oci::ParseSpec(config_json));
  if (parsed.cgroups_path.empty()) return Bad("it has no cgroupsPath");
  json spec = TRY(ParseJson(config_json));
  spec["ociVersion"] = oci::kForeignVersion;
  spec["process"] = oci::ForeignProcess(parsed.process);
  if (spec.contains("mounts")) TRY(AdaptMounts(shm, &spec["mounts"]));
  return ForeignSpec{DumpJson(spec), DumpJson(spec["process"]), parsed.cgroups_path};
}

Result<std::string> ProcessWithArgs(const std::string& process, const std::vector<std::string>& args) {
  json made = TRY(ParseJson(process));
  made["args"] = args;
  made["terminal"] = false;
  return DumpJson(made);
}

Result<std::string> MakeForeignProcess(const std::string& process) {
  return DumpJson(oci::ForeignProcess(TRY(oci::ParseProcess(process))));
}

std::string CgroupBesideContainers(const pod::v1::SandboxOptions& options, const std::string& leaf) {
  return CgroupsPath(options.cgroup_parent(), options.systemd_cgroup(), "caisson", leaf);
}

}  // namespace caisson::shim

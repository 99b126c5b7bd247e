// SPDX-License-Identifier: Apache-2.0
#include "oci/foreign_config.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

#include <nlohmann/json.hpp>

#include "sys/oom_score.h"

namespace caisson::oci {
namespace {

using nlohmann::json;

// By their numbers (getrlimit(2)), which x86-64 and arm64 have in common.
constexpr const char* kLimitNames[] = {"RLIMIT_CPU",   "RLIMIT_FSIZE",   "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE",       "RLIMIT_RSS",
                                       "RLIMIT_NPROC", "RLIMIT_NOFILE",  "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS",      "RLIMIT_SIGPENDING",
                                       "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME"};

bool MayRaise() { return prctl(PR_CAPBSET_READ, CAP_SYS_RESOURCE, 0, 0, 0) == 1; }

json CapabilitiesJson(uint64_t set) {
  json names = json::array();
  for (int number = 0; number < 64; ++number) {
    if (std::string name = (set >> number & 1) != 0 ? CapabilityName(number) : ""; !name.empty()) names.push_back(name);
  }
  return names;
}

json LimitsJson(const std::vector<Rlimit>& limits) {
  json list = json::array();
  for (const Rlimit& limit : limits) {
    if (limit.resource < 0 || limit.resource >= static_cast<int>(std::size(kLimitNames))) continue;
    rlimit own{};
    uint64_t most = UINT64_MAX;
    if (!MayRaise() && getrlimit(static_cast<__rlimit_resource>(limit.resource), &own) == 0) most = own.rlim_max;
    list.push_back({{"type", kLimitNames[limit.resource]}, {"soft", std::min(limit.soft, most)}, {"hard", std::min(limit.hard, most)}});
  }
  return list;
}

// proc(5): a value below one's own needs CAP_SYS_RESOURCE.
int OomScoreOf(int wanted) {
  if (MayRaise()) return wanted;
  return std::max(wanted, sys::OwnOomScore().value_or(wanted));
}

Result<> MakeMountsForeign(const ForeignConfigInputs& inputs, json* mounts) {
  size_t image = 0;
  for (json& mount : *mounts) {
    const std::string type = mount.value("type", std::string()), destination = mount.value("destination", std::string());
    if (mount.contains("uidMappings") || mount.contains("gidMappings")) {
      return MakeError(Code::kUnimplemented, "mount '{}': id-mapped mounts are not supported with a runtime of another project's", destination);
    }
    if (type == "caisson-shm") {
      if (inputs.shm_path.empty()) return MakeError(Code::kFailedPrecondition, "mount '{}': the pod has no /dev/shm", destination);
      mount["type"] = "bind";
      mount["source"] = inputs.shm_path;
      mount["options"] = {"bind", "nosuid", "noexec", "nodev"};
    } else if (type == "caisson-image") {
      if (image >= inputs.images.size()) return MakeError(Code::kInternal, "mount '{}': its image is not mounted", destination);
      mount["type"] = "bind";
      mount["source"] = inputs.images[image++];
      mount["options"] = {"rbind", "ro", "nosuid", "nodev", "noexec", "rprivate"};
    }
  }
  return {};
}

}  // namespace

json ForeignProcess(const ProcessSpec& process) {
  json user = {{"uid", process.uid}, {"gid", process.gid}, {"additionalGids", process.additional_gids}};
  if (process.umask) user["umask"] = *process.umask;
  json made = {{"terminal", process.terminal}, {"user", user}, {"args", process.args}, {"env", process.env}, {"cwd", process.cwd},
               {"noNewPrivileges", process.no_new_privileges}, {"rlimits", LimitsJson(process.rlimits)}};
  if (process.console_width != 0) made["consoleSize"] = {{"width", process.console_width}, {"height", process.console_height}};
  CapabilitySets none;
  const CapabilitySets& sets = process.capabilities ? *process.capabilities : none;
  made["capabilities"] = {{"bounding", CapabilitiesJson(sets.bounding)}, {"effective", CapabilitiesJson(sets.effective)},
                          {"inheritable", CapabilitiesJson(sets.inheritable)}, {"permitted", CapabilitiesJson(sets.permitted)},
                          {"ambient", CapabilitiesJson(sets.ambient)}};
  if (!process.apparmor_profile.empty()) made["apparmorProfile"] = process.apparmor_profile;
  if (!process.selinux_label.empty()) made["selinuxLabel"] = process.selinux_label;
  if (process.oom_score_adj) made["oomScoreAdj"] = OomScoreOf(*process.oom_score_adj);
  return made;
}

Result<> MakeForeign(const ForeignConfigInputs& inputs, json* config) {
  (*config)["ociVersion"] = kForeignVersion;
  (*config)["process"] = ForeignProcess(inputs.process);
  (*config)["root"]["path"] = inputs.root_path;
  if (config->contains("mounts")) TRY(MakeMountsForeign(inputs, &(*config)["mounts"]));
  for (const auto& [key, value] : inputs.annotations) (*config)["annotations"][key] = value;
  return {};
}

}  // namespace caisson::oci

// SPDX-License-Identifier: Apache-2.0
#include "base/cgroup_path.h"
#include "base/json.h"
#include "base/strings.h"
#include "cri/spec_parts.h"

namespace caisson::cri {

using nlohmann::json;
namespace v1 = runtime::v1;

namespace {

// A list as cpuset(7) takes it: digits, commas, dashes.
Result<> CheckCpuList(const std::string& list, const char* what) {
  if (list.find_first_not_of("0123456789,- ") != std::string::npos) return MakeError(Code::kInvalidArgument, "{} '{}' is no list of numbers", what, list.substr(0, 64));
  return {};
}

}  // namespace

Result<json> ResourcesOf(const Config& config, const v1::LinuxContainerResources& resources, bool vm) {
  json out = json::object();
  json cpu = json::object();
  if (resources.cpu_shares() > 0) cpu["shares"] = resources.cpu_shares();
  if (resources.cpu_quota() != 0) cpu["quota"] = resources.cpu_quota();
  if (resources.cpu_period() > 0) cpu["period"] = resources.cpu_period();
  if (resources.cpu_shares() < 0 || resources.cpu_period() < 0) return MakeError(Code::kInvalidArgument, "cpu_shares and cpu_period cannot be negative");
  TRY(CheckCpuList(resources.cpuset_cpus(), "cpuset_cpus"));
  TRY(CheckCpuList(resources.cpuset_mems(), "cpuset_mems"));
  // The host's processors and memory nodes are none of a guest's.
  if (!vm && !resources.cpuset_cpus().empty()) cpu["cpus"] = resources.cpuset_cpus();
  if (!vm && !resources.cpuset_mems().empty()) cpu["mems"] = resources.cpuset_mems();
  if (!cpu.empty()) out["cpu"] = cpu;
  json memory = json::object();
  if (resources.memory_limit_in_bytes() != 0) memory["limit"] = resources.memory_limit_in_bytes();
  if (resources.memory_swap_limit_in_bytes() != 0) memory["swap"] = resources.memory_swap_limit_in_bytes();
  if (!memory.empty()) out["memory"] = memory;
  for (const auto& limit : resources.hugepage_limits()) {
    out["hugepageLimits"].push_back({{"pageSize", limit.page_size()}, {"limit", limit.limit()}});
  }
  for (const auto& [key, value] : resources.unified()) out["unified"][key] = value;
  if (config.containers.pids_limit > 0) out["pids"] = {{"limit", config.containers.pids_limit}};
  return out;
}

void MergeResources(const v1::LinuxContainerResources& update, v1::LinuxContainerResources* resources) {
  if (update.cpu_period()) resources->set_cpu_period(update.cpu_period());
  if (update.cpu_quota()) resources->set_cpu_quota(update.cpu_quota());
  if (update.cpu_shares()) resources->set_cpu_shares(update.cpu_shares());
  if (update.memory_limit_in_bytes()) resources->set_memory_limit_in_bytes(update.memory_limit_in_bytes());
  if (update.memory_swap_limit_in_bytes()) {
    resources->set_memory_swap_limit_in_bytes(update.memory_swap_limit_in_bytes());
  }
  if (update.oom_score_adj()) resources->set_oom_score_adj(update.oom_score_adj());
  if (!update.cpuset_cpus().empty()) resources->set_cpuset_cpus(update.cpuset_cpus());
  if (!update.cpuset_mems().empty()) resources->set_cpuset_mems(update.cpuset_mems());
  for (const auto& limit : update.hugepage_limits()) {
    bool known = false;
    for (auto& have : *resources->mutable_hugepage_limits()) {
      if (have.page_size() == limit.page_size()) have.set_limit(limit.limit()), known = true;
    }
    if (!known) *resources->add_hugepage_limits() = limit;
  }
  for (const auto& [key, value] : update.unified()) (*resources->mutable_unified())[key] = value;
}

Result<std::string> ResourcesJson(const Config& config, const v1::LinuxContainerResources& resources, bool vm) {
  return DumpJson(TRY(ResourcesOf(config, resources, vm)));
}

std::string CgroupPath(const std::string& parent, const std::string& container_id, bool systemd) {
  return CgroupsPath(parent, systemd, "caisson", container_id);
}

}  // namespace caisson::cri

// SPDX-License-Identifier: Apache-2.0
#include "net/plugin_input.h"

#include <net/if.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/id.h"
#include "base/json.h"
#include "base/strings.h"

namespace caisson::net {
namespace {

Json PortMappings(const std::vector<PortMapping>& mappings) {
  Json list = Json::array();
  for (const PortMapping& mapping : mappings) {
    Json entry = {
        {"hostPort", mapping.host_port}, {"containerPort", mapping.container_port}, {"protocol", mapping.protocol}};
    if (!mapping.host_ip.empty()) entry["hostIP"] = mapping.host_ip;
    list.push_back(std::move(entry));
  }
  return list;
}

Json Dns(const Attachment& attachment) {
  Json dns = Json::object();
  if (!attachment.dns_servers.empty()) dns["servers"] = attachment.dns_servers;
  if (!attachment.dns_searches.empty()) dns["searches"] = attachment.dns_searches;
  if (!attachment.dns_options.empty()) dns["options"] = attachment.dns_options;
  return dns;
}

// A list of sets of ranges; each set gives one address, so that each subnet (one of v4, one of v6) is its own set.
Json IpRanges(const std::vector<std::string>& subnets) {
  Json sets = Json::array();
  for (const std::string& subnet : subnets) {
    Json set = Json::array();
    set.push_back({{"subnet", subnet}});
    sets.push_back(std::move(set));
  }
  return sets;
}

// The value of a capability (CNI's CONVENTIONS page), or null if there is nothing to say.
Result<Json> CapabilityOf(const Attachment& attachment, std::string_view name) {
  if (name == "portMappings" && !attachment.port_mappings.empty()) return PortMappings(attachment.port_mappings);
  if (name == "bandwidth" && attachment.bandwidth_json) {
    auto bandwidth = ParseJson(*attachment.bandwidth_json);
    if (!bandwidth) return std::move(bandwidth.error()).Within("bandwidth");
    return bandwidth;
  }
  if (name == "dns") {
    if (Json dns = Dns(attachment); !dns.empty()) return dns;
  }
  if (name == "ipRanges" && !attachment.ip_ranges.empty()) return IpRanges(attachment.ip_ranges);
  if (name == "ips" && !attachment.ips.empty()) return Json(attachment.ips);
  if (name == "mac" && !attachment.mac.empty()) return Json(attachment.mac);
  if (name == "aliases" && !attachment.aliases.empty()) return Json(attachment.aliases);
  return Json();
}

Json ValidAttachments(const std::vector<Attachment>& valid) {
  Json list = Json::array();
  for (const Attachment& attachment : valid) {
    list.push_back({{"containerID", attachment.container_id}, {"ifname", attachment.if_name}});
  }
  return list;
}

// Letters before anything else, as the spec's grammar of container ids says.
Result<> CheckContainerId(const std::string& id) {
  if (IsSafeName(id) && std::isalnum(static_cast<unsigned char>(id[0]))) return {};
  return MakeError(Code::kInvalidArgument, "CNI_CONTAINERID: not a container id");
}

// The kernel's rule (dev_valid_name in net/core/dev.c).
Result<> CheckIfName(const std::string& name) {
  bool valid = !name.empty() && name.size() < IF_NAMESIZE && name != "." && name != ".." &&
               std::all_of(name.begin(), name.end(),
                           [](unsigned char c) { return c > ' ' && c < 0x7f && c != '/' && c != ':'; });
  if (valid) return {};
  return MakeError(Code::kInvalidArgument, "CNI_IFNAME: not an interface name");
}

// "K=V;K2=V2" knows no quoting: what holds a separator would become arguments of its own.
Result<std::string> FormatArgs(const std::map<std::string, std::string>& args) {
  std::string text;
  for (const auto& [key, value] : args) {
    std::string_view bad("=;\0", 3);
    if (key.empty() || key.find_first_of(bad) != key.npos || value.find_first_of(bad) != value.npos) {
      return MakeError(Code::kInvalidArgument, "CNI_ARGS: '{}' or its value is empty or holds '=' or ';'",
                       key.substr(0, 64));
    }
    if (!text.empty()) text += ';';
    text += key + "=" + value;
  }
  return text;
}

}  // namespace

Result<std::string> MakeInput(const Conflist& list, const PluginConf& plugin, const PluginInput& input) {
  Json config = TRY(ParseJson(plugin.json));
  // Spec: `capabilities` is the runtime's to read and is not passed on.
  config.erase("capabilities");
  config.erase("prevResult");
  config.erase("runtimeConfig");
  config["cniVersion"] = list.version;
  config["name"] = list.name;
  if (input.attachment) {
    Json runtime = Json::object();
    for (const std::string& name : plugin.capabilities) {
      Json value = TRY(CapabilityOf(*input.attachment, name));
      if (!value.is_null()) runtime[name] = std::move(value);
    }
    if (!runtime.empty()) config["runtimeConfig"] = std::move(runtime);
  }
  if (!input.prev_result.empty()) {
    auto prev = ParseJson(input.prev_result);
    if (!prev) return std::move(prev.error()).Within("prevResult");
    config["prevResult"] = std::move(*prev);
  }
  if (input.valid) config["cni.dev/valid-attachments"] = ValidAttachments(*input.valid);
  return DumpJson(config);
}

Result<std::vector<std::string>> MakeEnvironment(std::string_view command, const std::vector<std::string>& bin_dirs,
                                                 const Attachment* attachment) {
  const char* path = getenv("PATH");
  std::vector<std::string> environment = {
      fmt::format("CNI_COMMAND={}", command),
      // Where plugins look for those that they delegate to (IPAM).
      "CNI_PATH=" + Join(bin_dirs, ":"),
      // iptables and others are found by it. Nothing else of the daemon's environment is the plugin's business.
      fmt::format("PATH={}", path ? path : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
  };
  if (!attachment) return environment;
  TRY(CheckContainerId(attachment->container_id));
  TRY(CheckIfName(attachment->if_name));
  if (attachment->netns_path.find('\0') != std::string::npos) {
    return MakeError(Code::kInvalidArgument, "CNI_NETNS: holds a zero byte");
  }
  environment.push_back("CNI_CONTAINERID=" + attachment->container_id);
  environment.push_back("CNI_IFNAME=" + attachment->if_name);
  environment.push_back("CNI_NETNS=" + attachment->netns_path);
  environment.push_back("CNI_ARGS=" + TRY(FormatArgs(attachment->args)));
  return environment;
}

}  // namespace caisson::net

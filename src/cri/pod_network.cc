// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_network.h"

#include <cmath>
#include <limits>

#include "base/strings.h"
#include "net/netns.h"

namespace caisson::cri {
namespace {

constexpr std::string_view kIngress = "kubernetes.io/ingress-bandwidth", kEgress = "kubernetes.io/egress-bandwidth";
// What Kubernetes accepts for a bandwidth: 1k to 1P bits per second.
constexpr int64_t kMinRate = 1'000, kMaxRate = 1'000'000'000'000'000;

Result<int64_t> RateOf(const runtime::v1::PodSandboxConfig& config, std::string_view key) {
  auto at = config.annotations().find(std::string(key));
  if (at == config.annotations().end()) return 0;
  auto rate = ParseQuantity(at->second);
  if (!rate || *rate < kMinRate || *rate > kMaxRate) {
    return MakeError(Code::kInvalidArgument, "annotation '{}' is '{}', not a rate between 1k and 1P", key,
                     at->second.substr(0, 64));
  }
  return *rate;
}

}  // namespace

Result<int64_t> ParseQuantity(std::string_view text) {
  struct Suffix {
    std::string_view word;
    double factor;
  };
  constexpr Suffix kSuffixes[] = {{"Ki", 1024.0},         {"Mi", 1048576.0},        {"Gi", 1073741824.0},
                                  {"Ti", 1099511627776.0}, {"Pi", 1125899906842624.0}, {"m", 1e-3},
                                  {"k", 1e3},             {"M", 1e6},               {"G", 1e9},
                                  {"T", 1e12},            {"P", 1e15},              {"", 1.0}};
  auto bad = [&] { return MakeError(Code::kInvalidArgument, "'{}' is not a quantity", text.substr(0, 64)); };
  size_t digits = 0;
  while (digits < text.size() && (std::isdigit(static_cast<unsigned char>(text[digits])) || text[digits] == '.')) {
    ++digits;
  }
  if (digits == 0 || digits > 32) return bad();
  std::string number(text.substr(0, digits));
  std::string_view rest = text.substr(digits);
  if (!rest.empty() && (rest[0] == 'e' || rest[0] == 'E')) {
    auto exponent = ParseInt64(rest.substr(1));
    if (!exponent || *exponent < -18 || *exponent > 18) return bad();
    number += fmt::format("e{}", *exponent);
    rest = {};
  }
  char* end = nullptr;
  double value = std::strtod(number.c_str(), &end);
  if (*end != '\0' || !std::isfinite(value)) return bad();
  for (const Suffix& suffix : kSuffixes) {
    if (rest != suffix.word) continue;
    double whole = std::ceil(value * suffix.factor);
    if (whole > 9e18) return bad();
    return static_cast<int64_t>(whole);
  }
  return bad();
}

Result<std::optional<std::string>> BandwidthOf(const runtime::v1::PodSandboxConfig& config) {
  int64_t ingress = TRY(RateOf(config, kIngress)), egress = TRY(RateOf(config, kEgress));
  if (ingress == 0 && egress == 0) return std::optional<std::string>();
  // The bandwidth plugin wants a burst with each rate; a large one only shapes the sustained rate.
  constexpr int64_t kBurst = std::numeric_limits<int32_t>::max();
  std::vector<std::string> fields;
  if (ingress) fields.push_back(fmt::format(R"("ingressRate":{},"ingressBurst":{})", ingress, kBurst));
  if (egress) fields.push_back(fmt::format(R"("egressRate":{},"egressBurst":{})", egress, kBurst));
  return std::optional<std::string>(fmt::format("{{{}}}", Join(fields, ",")));
}

Result<net::Attachment> AttachmentOf(const PodRecord& pod) {
  const auto& config = pod.config();
  net::Attachment attachment;
  attachment.container_id = pod.id();
  attachment.netns_path = pod.netns_path();
  attachment.args = {{"IgnoreUnknown", "1"},
                     {"K8S_POD_NAMESPACE", config.metadata().namespace_()},
                     {"K8S_POD_NAME", config.metadata().name()},
                     {"K8S_POD_INFRA_CONTAINER_ID", pod.id()},
                     {"K8S_POD_UID", config.metadata().uid()}};
  for (const auto& mapping : config.port_mappings()) {
    // The kubelet lists every container port; only those with a host port are for CNI.
    if (mapping.host_port() <= 0) continue;
    net::PortMapping port;
    port.protocol = mapping.protocol() == runtime::v1::UDP    ? "udp"
                    : mapping.protocol() == runtime::v1::SCTP ? "sctp"
                                                              : "tcp";
    port.host_port = mapping.host_port();
    port.container_port = mapping.container_port();
    port.host_ip = mapping.host_ip();
    attachment.port_mappings.push_back(std::move(port));
  }
  attachment.bandwidth_json = TRY(BandwidthOf(config));
  const auto& dns = config.dns_config();
  attachment.dns_servers.assign(dns.servers().begin(), dns.servers().end());
  attachment.dns_searches.assign(dns.searches().begin(), dns.searches().end());
  attachment.dns_options.assign(dns.options().begin(), dns.options().end());
  return attachment;
}

net::NetworkResult NetworkResultOf(const daemon::v1::NetworkRecord& network) {
  net::NetworkResult result;
  result.ips.assign(network.ips().begin(), network.ips().end());
  result.mac = network.mac();
  result.raw_json = network.raw_json();
  result.config_json = network.config_json();
  return result;
}

void SetNetwork(const net::NetworkResult& result, daemon::v1::NetworkRecord* network) {
  for (const std::string& ip : result.ips) network->add_ips(ip);
  network->set_mac(result.mac);
  network->set_raw_json(result.raw_json);
  network->set_config_json(result.config_json);
}

Result<> ReleaseNetwork(Context& context, const PodRecord& record) {
  if (record.network().attached()) {
    net::Attachment attachment = TRY(AttachmentOf(record));
    // CNI spec: DEL runs also when the namespace is gone (a reboot), then without one.
    if (!net::IsNetns(record.netns_path())) attachment.netns_path.clear();
    if (auto deleted = context.cni.Del(attachment, NetworkResultOf(record.network())); !deleted) {
      return std::move(deleted.error()).Within(fmt::format("release the network of pod sandbox '{}'", record.id()));
    }
  }
  if (!record.netns_path().empty()) TRY(net::RemoveNetns(record.netns_path()));
  return {};
}

}  // namespace caisson::cri

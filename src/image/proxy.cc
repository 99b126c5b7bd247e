// SPDX-License-Identifier: Apache-2.0
#include "image/proxy.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/strings.h"
#include "image/reference.h"

namespace caisson::image {
namespace {

struct Address {
  unsigned char bytes[16];
  int bits;  // 32 or 128
};

std::optional<Address> ParseAddress(std::string host) {
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  Address address{};
  if (inet_pton(AF_INET, host.c_str(), address.bytes) == 1) address.bits = 32;
  else if (inet_pton(AF_INET6, host.c_str(), address.bytes) == 1) address.bits = 128;
  else return std::nullopt;
  return address;
}

// `block` is "10.0.0.0/8".
bool InBlock(const std::string& block, const Address& address) {
  size_t slash = block.find('/');
  auto network = ParseAddress(block.substr(0, slash));
  auto prefix = ParseUint64(std::string_view(block).substr(slash + 1));
  if (!network || !prefix || network->bits != address.bits) return false;
  if (*prefix > static_cast<uint64_t>(address.bits)) return false;
  size_t whole = *prefix / 8;
  if (std::memcmp(network->bytes, address.bytes, whole) != 0) return false;
  int rest = static_cast<int>(*prefix % 8);
  if (rest == 0) return true;
  int mask = 0xff00 >> rest & 0xff;
  return (network->bytes[whole] & mask) == (address.bytes[whole] & mask);
}

std::string Environment(const char* upper, const char* lower) {
  const char* value = std::getenv(upper);
  if (value == nullptr || *value == '\0') value = std::getenv(lower);
  return value == nullptr ? "" : value;
}

std::string WithScheme(std::string proxy) {
  if (!proxy.empty() && proxy.find("://") == std::string::npos) proxy = "http://" + proxy;
  return proxy;
}

}  // namespace

ProxyRules ProxyRules::FromEnvironment() {
  return ProxyRules(Environment("HTTP_PROXY", "http_proxy"), Environment("HTTPS_PROXY", "https_proxy"),
                    Environment("NO_PROXY", "no_proxy"));
}

ProxyRules::ProxyRules(std::string http, std::string https, std::string_view no_proxy)
    : http_(WithScheme(std::move(http))), https_(WithScheme(std::move(https))) {
  for (std::string_view piece : Split(no_proxy, ',')) {
    std::string entry(Trim(piece));
    std::transform(entry.begin(), entry.end(), entry.begin(), [](unsigned char c) { return std::tolower(c); });
    if (!entry.empty()) no_proxy_.push_back(std::move(entry));
  }
}

std::string ProxyRules::For(const Url& url) const {
  const std::string& proxy = url.secure() ? https_ : http_;
  if (proxy.empty() || IsLoopbackDomain(url.host) || Excluded(url)) return "";
  return proxy;
}

bool ProxyRules::Excluded(const Url& url) const {
  auto address = ParseAddress(url.host);
  for (const std::string& entry : no_proxy_) {
    if (entry == "*") return true;
    if (entry.find('/') != std::string::npos) {
      if (address && InBlock(entry, *address)) return true;
      continue;
    }
    std::string name = entry;
    // "host:port" excludes that port only. An IPv6 address has more than one colon.
    size_t colon = entry.rfind(':');
    bool bracketed = entry.front() == '[';
    if (colon != std::string::npos && (bracketed ? entry[colon - 1] == ']' : entry.find(':') == colon)) {
      if (entry.substr(colon + 1) != std::to_string(url.port)) continue;
      name = entry.substr(0, colon);
    }
    if (name.starts_with("*.")) name = name.substr(1);
    if (address) {
      auto other = ParseAddress(name);
      if (other && other->bits == address->bits && std::memcmp(other->bytes, address->bytes, 16) == 0) return true;
      continue;
    }
    // ".example.com" is its subdomains; "example.com" is itself and them.
    bool below_only = name.front() == '.';
    if (url.host.ends_with(below_only ? name : "." + name) || url.host == name) return true;
  }
  return false;
}

}  // namespace caisson::image

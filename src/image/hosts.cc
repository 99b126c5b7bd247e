// SPDX-License-Identifier: Apache-2.0
#include "image/hosts.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <memory>

#include <toml++/toml.h>

#include "base/limits.h"
#include "base/strings.h"
#include "image/file.h"
#include "image/reference.h"

namespace caisson::image {
namespace {

constexpr size_t kMaxHosts = 32;
constexpr size_t kMaxListed = 64;

// A table of hosts.toml, and how to complain about it.
struct Section {
  const toml::table& table;
  const std::string& file;
  const std::string& folder;
};

Error Bad(const Section& in, const toml::node& node, std::string_view why) {
  return MakeError(Code::kInvalidArgument, "{}:{}: {}", in.file, node.source().begin.line, why);
}

std::string Below(const std::string& folder, const std::string& path) {
  return path.starts_with('/') ? path : folder + "/" + path;
}

// A string, or a list of them.
Result<std::vector<std::string>> GetStrings(const Section& in, const toml::node& node, std::string_view key) {
  std::vector<std::string> out;
  if (const auto* text = node.as_string()) {
    out.push_back(text->get());
    return out;
  }
  const toml::array* list = node.as_array();
  if (list == nullptr || list->size() > kMaxListed) {
    return Bad(in, node, fmt::format("'{}' must be a string or a list of at most {}", key, kMaxListed));
  }
  for (const toml::node& item : *list) {
    const auto* text = item.as_string();
    if (text == nullptr) return Bad(in, item, fmt::format("'{}' must hold strings", key));
    out.push_back(text->get());
  }
  return out;
}

Result<bool> GetBool(const Section& in, std::string_view key) {
  const toml::node* node = in.table.get(key);
  if (node == nullptr) return false;
  const auto* value = node->as_boolean();
  if (value == nullptr) return Bad(in, *node, fmt::format("'{}' must be true or false", key));
  return value->get();
}

// client = "file", ["file", …] or [["certificate", "key"], …].
Result<> ParseClient(const Section& in, const toml::node& node, TlsOptions* tls) {
  const toml::array* list = node.as_array();
  if (list == nullptr || list->empty() || !(*list)[0].is_array()) {
    for (const std::string& file : TRY(GetStrings(in, node, "client"))) {
      tls->client_certs.emplace_back(Below(in.folder, file), "");
    }
    return {};
  }
  if (list->size() > kMaxListed) return Bad(in, node, "'client' is too long");
  for (const toml::node& item : *list) {
    auto pair = TRY(GetStrings(in, item, "client"));
    if (pair.empty() || pair.size() > 2) return Bad(in, item, "'client' must hold [certificate, key] pairs");
    bool no_key = pair.size() == 1 || pair[1].empty();
    tls->client_certs.emplace_back(Below(in.folder, pair[0]), no_key ? "" : Below(in.folder, pair[1]));
  }
  return {};
}

Result<> ParseHeaders(const Section& in, const toml::node& node, std::vector<std::string>* headers) {
  const toml::table* table = node.as_table();
  if (table == nullptr || table->size() > kMaxListed) return Bad(in, node, "'header' must be a (small) table");
  for (const auto& [name, values] : *table) {
    std::string key(name.str());
    bool clean = std::all_of(key.begin(), key.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f && c != ':'; });
    if (key.empty() || !clean) return Bad(in, values, "a header's name is not usable");
    for (const std::string& value : TRY(GetStrings(in, values, "header"))) {
      bool plain = std::none_of(value.begin(), value.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
      if (!plain) return Bad(in, values, fmt::format("header '{}' holds a control character", key));
      headers->push_back(key + ": " + value);
    }
  }
  return {};
}

Result<> ParseCapabilities(const Section& in, const toml::node& node, RegistryHost* host) {
  host->can_pull = host->can_resolve = false;
  for (const std::string& word : TRY(GetStrings(in, node, "capabilities"))) {
    if (word == "pull") host->can_pull = true;
    else if (word == "resolve") host->can_resolve = true;
    else if (word != "push" && word != "referrers") {
      return Bad(in, node, fmt::format("unknown capability '{}'", word.substr(0, 40)));
    }
  }
  return {};
}

// "1.5s", "300ms", "1m30s" (Go's time.ParseDuration, without the units nobody dials in).
Result<int64_t> ParseDuration(std::string_view text) {
  double millis = 0;
  if (text.empty() || text.size() > 32) return MakeError(Code::kInvalidArgument, "not a duration");
  while (!text.empty()) {
    size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
    size_t unit_end = std::min(text.find_first_of("0123456789.", digits), text.size());
    std::string_view unit = text.substr(digits, unit_end - digits);
    double value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + digits, value);
    if (digits == 0 || error != std::errc() || end != text.data() + digits) {
      return MakeError(Code::kInvalidArgument, "not a duration");
    }
    if (unit == "ms") millis += value;
    else if (unit == "s") millis += value * 1e3;
    else if (unit == "m") millis += value * 60e3;
    else if (unit == "h") millis += value * 3600e3;
    else return MakeError(Code::kInvalidArgument, "not a duration");
    text.remove_prefix(unit_end);
  }
  if (millis < 1 || millis > 600e3) return MakeError(Code::kInvalidArgument, "not between 1ms and 10m");
  return static_cast<int64_t>(millis);
}

// The settings that a [host."…"] table and the top of the file (for 'server') share.
Result<> ParseSettings(const Section& in, RegistryHost* host) {
  if (const toml::node* node = in.table.get("capabilities")) TRY(ParseCapabilities(in, *node, host));
  host->tls.skip_verify = TRY(GetBool(in, "skip_verify"));
  if (const toml::node* node = in.table.get("ca")) {
    for (const std::string& ca : TRY(GetStrings(in, *node, "ca"))) host->tls.ca_files.push_back(Below(in.folder, ca));
  }
  if (const toml::node* node = in.table.get("client")) TRY(ParseClient(in, *node, &host->tls));
  if (const toml::node* node = in.table.get("header")) TRY(ParseHeaders(in, *node, &host->headers));
  if (const toml::node* node = in.table.get("dial_timeout")) {
    const auto* text = node->as_string();
    auto millis = text == nullptr ? Result<int64_t>(MakeError(Code::kInvalidArgument, "not a string"))
                                  : ParseDuration(text->get());
    if (!millis) return Bad(in, *node, "'dial_timeout' must be a duration like \"5s\": " + millis.error().message);
    host->dial_timeout_millis = *millis;
  }
  // Without override_path the API is below /v2 of what is named.
  bool override_path = TRY(GetBool(in, "override_path"));
  std::string& path = host->base.path;
  while (path.ends_with('/')) path.pop_back();
  if (!override_path && !path.ends_with("/v2")) path += "/v2";
  return {};
}

Result<Url> ParseServer(const Section& in, const toml::node& node, std::string name) {
  if (name.find("://") == std::string::npos) {
    bool plain = IsLoopbackDomain(name.substr(0, name.find('/')));
    name = (plain ? "http://" : "https://") + name;
  }
  auto url = ParseUrl(name);
  if (!url) return Bad(in, node, url.error().message);
  if (url->host == "docker.io") url->host = "registry-1.docker.io";
  url->query.clear();
  return *url;
}

Result<std::vector<RegistryHost>> ReadTable(const toml::table& top, const std::string& file, const std::string& folder,
                                            const std::string& domain) {
  std::vector<std::pair<unsigned, RegistryHost>> mirrors;  // with the line: the order in the file counts
  Section root{top, file, folder};
  if (const toml::node* node = top.get("host")) {
    const toml::table* hosts = node->as_table();
    if (hosts == nullptr || hosts->size() > kMaxHosts) {
      return Bad(root, *node, fmt::format("'host' must be a table of at most {} hosts", kMaxHosts));
    }
    for (const auto& [name, value] : *hosts) {
      const toml::table* settings = value.as_table();
      if (settings == nullptr) return Bad(root, value, fmt::format("host.\"{}\" must be a table", name.str()));
      RegistryHost host;
      host.base = TRY(ParseServer(root, value, std::string(name.str())));
      TRY(ParseSettings(Section{*settings, file, folder}, &host));
      mirrors.emplace_back(value.source().begin.line, std::move(host));
    }
  }
  std::stable_sort(mirrors.begin(), mirrors.end(), [](const auto& a, const auto& b) { return a.first < b.first; });

  RegistryHost server = TRY(DefaultHost(domain));
  if (const toml::node* node = top.get("server")) {
    const auto* text = node->as_string();
    if (text == nullptr) return Bad(root, *node, "'server' must be a string");
    if (!text->get().empty()) server.base = TRY(ParseServer(root, *node, text->get()));
  }
  TRY(ParseSettings(root, &server));
  std::vector<RegistryHost> out;
  for (auto& [line, host] : mirrors) {
    // A mirror entry for the registry itself (settings only) is the registry.
    host.upstream = host.base.Origin() == server.base.Origin();
    out.push_back(std::move(host));
  }
  const std::string own = server.base.ToString();
  bool listed = std::any_of(out.begin(), out.end(), [&](const auto& host) { return host.base.ToString() == own; });
  if (!listed) out.push_back(std::move(server));
  return out;
}

// Certificate files alone, Docker's way: *.crt are CAs, x.cert goes with x.key.
Result<TlsOptions> ReadCertificates(const std::string& folder) {
  TlsOptions tls;
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(folder.c_str()), &closedir);
  if (dir == nullptr) return ErrnoError("open folder '{}'", folder);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(dir.get())) {
    names.emplace_back(entry->d_name);
    if (names.size() > kMaxListed) return MakeError(Code::kInvalidArgument, "folder '{}' has too many files", folder);
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    if (name.ends_with(".crt")) tls.ca_files.push_back(folder + "/" + name);
    if (!name.ends_with(".cert")) continue;
    std::string key = name.substr(0, name.size() - 5) + ".key";
    if (!std::binary_search(names.begin(), names.end(), key)) {
      return MakeError(Code::kInvalidArgument, "'{}/{}' has no key beside it ('{}')", folder, name, key);
    }
    tls.client_certs.emplace_back(folder + "/" + name, folder + "/" + key);
  }
  return tls;
}

// containerd's search: <host>_<port>_ (for file systems and tools that dislike colons), <host>:<port>, _default.
std::vector<std::string> Folders(const std::string& domain, const std::string& certs_dir) {
  std::vector<std::string> out;
  size_t colon = domain.rfind(':');
  if (colon != std::string::npos && domain.find(']', colon) == std::string::npos) {
    out.push_back(fmt::format("{}/{}_{}_", certs_dir, domain.substr(0, colon), domain.substr(colon + 1)));
  }
  out.push_back(certs_dir + "/" + domain);
  out.push_back(certs_dir + "/_default");
  return out;
}

}  // namespace

Result<RegistryHost> DefaultHost(const std::string& domain) {
  bool plain = IsLoopbackDomain(domain) && !domain.ends_with(":443");
  std::string name = domain == "docker.io" ? "registry-1.docker.io" : domain;
  auto url = ParseUrl((plain ? "http://" : "https://") + name + "/v2");
  if (!url) return std::move(url.error()).Within("registry '" + domain + "'");
  RegistryHost host;
  host.base = std::move(*url);
  host.upstream = true;
  return host;
}

Result<std::vector<RegistryHost>> ParseHostsToml(std::string_view text, const std::string& file,
                                                 const std::string& folder, const std::string& domain) {
  if (text.size() > limits::kConfigFileBytes) return MakeError(Code::kInvalidArgument, "{}: too large", file);
  try {
    toml::table top = toml::parse(text);
    return ReadTable(top, file, folder, domain);
  } catch (const toml::parse_error& error) {
    return MakeError(Code::kInvalidArgument, "{}:{}: {}", file, error.source().begin.line, error.description());
  }
}

Result<std::vector<RegistryHost>> HostsFor(const std::string& domain, const std::string& certs_dir) {
  if (!certs_dir.empty()) {
    for (const std::string& folder : Folders(domain, certs_dir)) {
      struct stat info {};
      if (stat(folder.c_str(), &info) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) continue;
        return ErrnoError("stat '{}'", folder);
      }
      if (!S_ISDIR(info.st_mode)) continue;
      std::string file = folder + "/hosts.toml";
      auto text = ReadSmallFile(file, limits::kConfigFileBytes);
      if (text) return ParseHostsToml(*text, file, folder, domain);
      if (text.error().code != Code::kNotFound) return std::move(text.error());
      TlsOptions tls = TRY(ReadCertificates(folder));
      RegistryHost host = TRY(DefaultHost(domain));
      // Who lays down a certificate for a registry expects TLS of it, on loopback too.
      if (!tls.ca_files.empty() && !host.base.secure()) {
        host.base = TRY(ParseUrl("https://" + domain + "/v2"));
      }
      host.tls = std::move(tls);
      return std::vector<RegistryHost>{std::move(host)};
    }
  }
  return std::vector<RegistryHost>{TRY(DefaultHost(domain))};
}

}  // namespace caisson::image

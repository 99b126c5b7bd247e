// SPDX-License-Identifier: Apache-2.0
#include "cli/registries.h"

#include <dirent.h>

#include <algorithm>
#include <cctype>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "base/limits.h"
#include "base/strings.h"
#include "base/toml.h"
#include "cli/toml_text.h"
#include "sys/path.h"

namespace caisson::cli {
namespace {

constexpr size_t kMaxNames = 1024;

bool IsRegistryName(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '-' || c == '_' || c == ':' || c == '[' || c == ']'; });
}

// "host:port" of a URL.
std::string AuthorityOf(const std::string& url) {
  size_t start = url.find("://");
  start = start == url.npos ? 0 : start + 3;
  return url.substr(start, url.find('/', start) - start);
}

// A URL whose path is the API's own: nothing is to be put behind it.
bool HasPath(const std::string& url) {
  size_t slash = url.find('/', url.find("://") + 3);
  return slash != url.npos && slash + 1 < url.size();
}

void AddTls(const RegistryTls& tls, const char* indent, std::string* out) {
  auto list = [](const std::vector<std::string>& words) { return "[" + Join(words, ", ") + "]"; };
  if (tls.skip_verify) *out += fmt::format("{}skip_verify = true\n", indent);
  std::vector<std::string> words;
  for (const std::string& file : tls.ca) words.push_back(QuotedToml(file));
  if (!words.empty()) *out += fmt::format("{}ca = {}\n", indent, list(words));
  words.clear();
  for (const auto& [certificate, key] : tls.client) words.push_back(list({QuotedToml(certificate), QuotedToml(key)}));
  if (!words.empty()) *out += fmt::format("{}client = {}\n", indent, list(words));
}

bool IsNone(const RegistryTls& tls) { return !tls.skip_verify && tls.ca.empty() && tls.client.empty(); }

// Whoever takes a registry as insecure asks it by TLS that proves nothing, and then without.
void AddInsecureEndpoints(const std::string& location, bool digests_only, std::vector<RegistryEndpoint>* endpoints) {
  RegistryTls unproved;
  unproved.skip_verify = true;
  endpoints->push_back({"https://" + location, digests_only, unproved});
  endpoints->push_back({"http://" + location, digests_only, {}});
}

// "host/path" of theirs, whose path stands before an image's name, as an endpoint.
std::string LocationAsApi(const std::string& location) {
  size_t slash = location.find('/');
  return slash == location.npos ? location : location.substr(0, slash) + "/v2" + location.substr(slash);
}

std::string TextAt(const toml::table& table, std::string_view key) { return table[key].value_or(std::string()); }

class RegistriesConf {
 public:
  RegistriesConf(const std::string& origin, Registries* registries, std::vector<std::string>* notes) : origin_(origin), registries_(registries), notes_(notes) {}

  void Take(const toml::table& top) {
    for (const auto& [key, node] : top) {
      const toml::array* list = node.as_array();
      if (key == "registry" && list != nullptr) {
        for (const toml::node& one : *list) {
          if (const toml::table* table = one.as_table()) TakeRegistry(*table);
        }
      } else if (key == "unqualified-search-registries") {
        if (list != nullptr && !list->empty() && (list->size() > 1 || (*list)[0].value_or(std::string()) != "docker.io")) {
          Note("unqualified-search-registries", "a name without a registry is one of docker.io");
        }
      } else if (key == "aliases") {
        Note("aliases", "a name without a registry is one of docker.io");
      } else if (key != "short-name-mode") {
        Note(std::string(key.str()), key == "registries" ? "it is the file's first version" : "");
      }
    }
  }

 private:
  void Note(const std::string& what, std::string_view why) { notes_->push_back(why.empty() ? fmt::format("{}: {}", origin_, what) : fmt::format("{}: {}: {}", origin_, what, why)); }

  void TakeRegistry(const toml::table& table) {
    std::string location = TextAt(table, "location"), prefix = TextAt(table, "prefix");
    if (prefix.empty()) prefix = location;
    if (location.empty()) location = prefix;
    if (!IsRegistryName(prefix)) return Note(fmt::format("registry '{}'", prefix), "hosts.toml is for the whole of one registry");
    Registry registry;
    registry.blocked = table["blocked"].value_or(false);
    const bool digests_only = table["mirror-by-digest-only"].value_or(false);
    if (const toml::array* mirrors = table["mirror"].as_array()) {
      for (const toml::node& one : *mirrors) {
        if (const toml::table* mirror = one.as_table()) TakeMirror(prefix, *mirror, digests_only, &registry);
      }
    }
    const bool moved = location != prefix;
    std::string api = LocationAsApi(location);
    if (moved) registry.server = "https://" + api;
    if (table["insecure"].value_or(false)) AddInsecureEndpoints(api, false, &registry.mirrors);
    (*registries_)[prefix] = std::move(registry);
  }

  void TakeMirror(const std::string& of, const toml::table& mirror, bool digests_only, Registry* registry) {
    std::string location = TextAt(mirror, "location"), what = TextAt(mirror, "pull-from-mirror");
    if (location.empty()) return Note(fmt::format("a mirror of '{}'", of), "it has no location");
    if (what == "tag-only") Note(fmt::format("registry '{}', mirror '{}': pull-from-mirror", of, location), "it is asked for digests too");
    digests_only = digests_only || what == "digest-only";
    if (mirror["insecure"].value_or(false)) {
      AddInsecureEndpoints(LocationAsApi(location), digests_only, &registry->mirrors);
    } else {
      registry->mirrors.push_back({"https://" + LocationAsApi(location), digests_only, {}});
    }
  }

  const std::string& origin_;
  Registries* registries_;
  std::vector<std::string>* notes_;
};

std::vector<std::string> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(folder.c_str()), &closedir);
  while (const dirent* entry = dir ? readdir(dir.get()) : nullptr) {
    if (entry->d_name[0] != '.' && names.size() < kMaxNames) names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

RegistryTls CertificatesIn(const std::string& folder) {
  RegistryTls tls;
  std::vector<std::string> names = NamesIn(folder);
  for (const std::string& name : names) {
    std::string key = name.substr(0, name.rfind('.')) + ".key";
    if (name.ends_with(".crt")) tls.ca.push_back(folder + "/" + name);
    if (name.ends_with(".cert") && std::binary_search(names.begin(), names.end(), key)) tls.client.emplace_back(folder + "/" + name, folder + "/" + key);
  }
  return tls;
}

// What is said of the hosts that images come from: registry.configs.<host>.tls.
class ContainerdConfigs {
 public:
  explicit ContainerdConfigs(std::vector<std::string>* notes) : notes_(notes) {}

  // `key`: what is below registry.configs.<host>.
  void Take(const std::string& host, const std::vector<std::string>& key, const Setting& setting) {
    const auto* text = std::get_if<std::string>(&setting.value);
    const auto* truth = std::get_if<bool>(&setting.value);
    RegistryTls& tls = tls_[host];
    std::string name = Join(key, ".");
    if (name == "tls.ca_file" && text) {
      tls.ca = {*text};
    } else if (name == "tls.insecure_skip_verify" && truth) {
      tls.skip_verify = *truth;
    } else if (name == "tls.cert_file" && text) {
      clients_[host].first = *text;
    } else if (name == "tls.key_file" && text) {
      clients_[host].second = *text;
    } else if (key[0] == "auth") {
      if (with_secrets_.insert(host).second) notes_->push_back(fmt::format("credentials for '{}': put them into images.docker_config, as `docker login` writes it", host));
    } else {
      notes_->push_back(setting.Name());
    }
  }
  RegistryTls For(const std::string& host) const {
    auto found = tls_.find(host);
    if (found == tls_.end() && host == "docker.io") found = tls_.find("registry-1.docker.io");
    if (found == tls_.end()) return {};
    RegistryTls tls = found->second;
    auto client = clients_.find(found->first);
    if (client != clients_.end()) tls.client = {client->second};
    return tls;
  }
  std::vector<std::string> Hosts() const {
    std::vector<std::string> hosts;
    for (const auto& [host, tls] : tls_) {
      if (!IsNone(For(host))) hosts.push_back(host);
    }
    return hosts;
  }

 private:
  std::map<std::string, RegistryTls> tls_;
  std::map<std::string, std::pair<std::string, std::string>> clients_;
  std::set<std::string> with_secrets_;
  std::vector<std::string>* notes_;
};

}  // namespace

std::string HostsToml(const Registry& registry) {
  std::string out = "# By `caisson migrate`.\n";
  if (!registry.server.empty()) out += fmt::format("server = {}\n", QuotedToml(registry.server));
  if (HasPath(registry.server)) out += "override_path = true\n";
  if (registry.blocked) return out + "capabilities = []  # blocked\n";
  AddTls(registry.tls, "", &out);
  for (const RegistryEndpoint& mirror : registry.mirrors) {
    out += fmt::format("\n[host.{}]\n", QuotedToml(mirror.url));
    if (HasPath(mirror.url)) out += "  override_path = true\n";
    if (mirror.digests_only) out += "  capabilities = [\"pull\"]\n";
    AddTls(mirror.tls, "  ", &out);
  }
  return out;
}

Registries ContainerdRegistries(const std::vector<Setting>& settings, std::vector<std::string>* notes) {
  Registries registries;
  ContainerdConfigs configs(notes);
  for (const Setting& setting : settings) {
    const auto& path = setting.path;  // registry, mirrors or configs, a name, and what is said of it
    const auto* endpoints = std::get_if<std::vector<std::string>>(&setting.value);
    if (path[1] == "configs") {
      if (!setting.Empty()) configs.Take(path[2], {path.begin() + 3, path.end()}, setting);
    } else if (path[3] != "endpoint" || endpoints == nullptr || (path[2] != "*" && !IsRegistryName(path[2]))) {
      if (!setting.Empty()) notes->push_back(setting.Name());
    } else {
      for (const std::string& url : *endpoints) registries[path[2] == "*" ? "_default" : path[2]].mirrors.push_back({url, false, {}});
    }
  }
  for (auto& [name, registry] : registries) {
    for (RegistryEndpoint& mirror : registry.mirrors) mirror.tls = configs.For(AuthorityOf(mirror.url));
  }
  for (const std::string& host : configs.Hosts()) {
    const std::string name = host == "registry-1.docker.io" ? "docker.io" : host;
    if (IsRegistryName(name)) registries[name].tls = configs.For(name);
  }
  return registries;
}

Result<> AddContainersRegistries(std::string_view text, const std::string& origin, Registries* registries, std::vector<std::string>* notes) {
  if (text.size() > limits::kConfigFileBytes) return MakeError(Code::kInvalidArgument, "{}: longer than {} bytes", origin, limits::kConfigFileBytes);
  toml::parse_result parsed = toml::parse(text);
  if (!parsed) return MakeError(Code::kInvalidArgument, "{}:{}: {}", origin, parsed.error().source().begin.line, parsed.error().description());
  RegistriesConf(origin, registries, notes).Take(parsed.table());
  return {};
}

void AddInsecureRegistries(const std::vector<std::string>& names, Registries* registries, std::vector<std::string>* notes) {
  for (const std::string& name : names) {
    if (!IsRegistryName(name)) {
      notes->push_back(fmt::format("insecure registry '{}': hosts.toml is for the whole of one registry", name));
      continue;
    }
    Registry& registry = (*registries)[name];
    if (registry.mirrors.empty()) AddInsecureEndpoints(name, false, &registry.mirrors);
  }
}

Result<Registries> ReadContainersRegistries(const std::string& path, std::vector<std::string>* notes) {
  Registries registries;
  std::vector<std::string> files = {path};
  for (const std::string& name : NamesIn(path + ".d")) {
    if (name.ends_with(".conf")) files.push_back(fmt::format("{}.d/{}", path, name));
  }
  for (const std::string& file : files) {
    auto text = sys::ReadFile(file, limits::kConfigFileBytes);
    if (!text && text.error().sys_errno == ENOENT) continue;
    if (!text) return std::move(text.error());
    TRY(AddContainersRegistries(*text, file, &registries, notes));
  }
  return registries;
}

void AddCertificates(const std::string& folder, Registries* registries) {
  for (const std::string& name : NamesIn(folder)) {
    if (!IsRegistryName(name)) continue;
    RegistryTls tls = CertificatesIn(folder + "/" + name);
    if (IsNone(tls)) continue;
    Registry& own = (*registries)[name];
    if (own.tls.ca.empty() && own.tls.client.empty()) own.tls.ca = tls.ca, own.tls.client = tls.client;
    for (auto& [registry_name, registry] : *registries) {
      for (RegistryEndpoint& mirror : registry.mirrors) {
        if (AuthorityOf(mirror.url) == name && mirror.url.starts_with("https:") && IsNone(mirror.tls)) mirror.tls = tls;
      }
    }
  }
}

}  // namespace caisson::cli

// SPDX-License-Identifier: Apache-2.0
#include "net/conflist.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/bad.h"
#include "base/id.h"
#include "base/json.h"
#include "base/limits.h"

namespace caisson::net {
namespace {

constexpr std::array<std::string_view, 5> kVersions = {"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};
constexpr size_t kMaxTypeBytes = 255;  // NAME_MAX
constexpr size_t kMaxCapabilities = 64;

size_t RankOf(std::string_view version) {
  return static_cast<size_t>(std::find(kVersions.begin(), kVersions.end(), version) - kVersions.begin());
}

Result<std::string> StringAt(const Json& object, const char* key, std::string_view where) {
  auto at = object.find(key);
  if (at == object.end()) return Bad("{}{}: missing", where, key);
  if (!at->is_string()) return Bad("{}{}: not a string", where, key);
  return at->get_ref<const std::string&>();
}

// libcni also takes the words "true" and "false" here.
Result<bool> BoolAt(const Json& object, const char* key) {
  auto at = object.find(key);
  if (at == object.end()) return false;
  if (at->is_boolean()) return at->get<bool>();
  if (at->is_string()) {
    const auto& word = at->get_ref<const std::string&>();
    if (word == "true" || word == "false") return word == "true";
  }
  return Bad("{}: neither true nor false", key);
}

// Spec 1.1: "cniVersions" lists all versions that the configuration supports; the runtime takes the newest it speaks.
Result<std::string> VersionOf(const Json& object) {
  std::vector<std::string> offered;
  if (object.contains("cniVersion")) offered.push_back(TRY(StringAt(object, "cniVersion", "")));
  if (auto at = object.find("cniVersions"); at != object.end()) {
    if (!at->is_array()) return Bad("cniVersions: not a list");
    if (at->size() > 32) return Bad("cniVersions: more than 32");
    for (const Json& version : *at) {
      if (!version.is_string()) return Bad("cniVersions: an entry is not a string");
      offered.push_back(version.get_ref<const std::string&>());
    }
  }
  if (offered.empty()) return Bad("cniVersion: missing");
  std::string_view best;
  for (const std::string& version : offered) {
    size_t rank = RankOf(version);
    if (rank < kVersions.size() && (best.empty() || rank > RankOf(best))) best = kVersions[rank];
  }
  if (best.empty()) {
    return Bad("cniVersion: '{}' is not one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0", offered.front().substr(0, 32));
  }
  return std::string(best);
}

// Spec 1.1, network name: begins with a letter or digit, then also _ . and -
Result<std::string> NameOf(const Json& object) {
  std::string name = TRY(StringAt(object, "name", ""));
  if (!IsSafeName(name) || !std::isalnum(static_cast<unsigned char>(name[0]))) {
    return Bad("name: not 1 to 128 letters, digits, '_', '.', '-', beginning with a letter or digit");
  }
  return name;
}

// The type becomes the last component of the path that is executed.
Result<> CheckType(std::string_view type, std::string_view where) {
  bool printable = std::all_of(type.begin(), type.end(), [](unsigned char c) { return c > ' ' && c < 0x7f; });
  if (type.empty() || type.size() > kMaxTypeBytes || type == "." || type == ".." || !printable ||
      type.find('/') != type.npos) {
    return Bad("{}type: not the file name of a plugin", where);
  }
  return {};
}

Result<PluginConf> ReadPlugin(const Json& object, std::string_view where) {
  if (!object.is_object()) return Bad("{}: not an object", where.substr(0, where.size() - 1));
  PluginConf plugin;
  plugin.type = TRY(StringAt(object, "type", where));
  TRY(CheckType(plugin.type, where));
  if (auto at = object.find("capabilities"); at != object.end()) {
    if (!at->is_object()) return Bad("{}capabilities: not an object", where);
    if (at->size() > kMaxCapabilities) return Bad("{}capabilities: more than {}", where, kMaxCapabilities);
    for (const auto& [name, wanted] : at->items()) {
      if (!wanted.is_boolean()) return Bad("{}capabilities: a value is neither true nor false", where);
      if (wanted.get<bool>()) plugin.capabilities.push_back(name);
    }
  }
  plugin.json = DumpJson(object);
  return plugin;
}

// A file of one plugin is a list of one. `ipMasq` and the like stay with the plugin.
Json WrapPlugin(Json plugin) {
  Json list = Json::object();
  for (const char* key : {"cniVersion", "cniVersions", "name"}) {
    if (auto at = plugin.find(key); at != plugin.end()) {
      list[key] = *at;
      plugin.erase(at);
    }
  }
  list["plugins"] = Json::array({std::move(plugin)});
  return list;
}

}  // namespace

bool IsKnownVersion(std::string_view version) { return RankOf(version) < kVersions.size(); }

bool VersionAtLeast(std::string_view version, std::string_view least) { return RankOf(version) >= RankOf(least); }

Result<Conflist> ParseConflist(std::string_view text, ConfForm form) {
  Json document = TRY(ParseJson(text, limits::kConfigFileBytes));
  if (!document.is_object()) return Bad("not a JSON object");
  if (form == ConfForm::kSinglePlugin) {
    if (document.contains("plugins")) return Bad("plugins: a list of plugins belongs into a file named *.conflist");
    TRY(ReadPlugin(document, ""));
    document = WrapPlugin(std::move(document));
  }
  Conflist list;
  list.version = TRY(VersionOf(document));
  list.name = TRY(NameOf(document));
  list.disable_check = TRY(BoolAt(document, "disableCheck"));
  list.disable_gc = TRY(BoolAt(document, "disableGC"));
  auto plugins = document.find("plugins");
  if (plugins == document.end()) return Bad("plugins: missing");
  if (!plugins->is_array() || plugins->empty()) return Bad("plugins: not a list of at least one plugin");
  if (plugins->size() > limits::kCniPlugins) return Bad("plugins: more than {}", limits::kCniPlugins);
  for (size_t i = 0; i < plugins->size(); ++i) {
    list.plugins.push_back(TRY(ReadPlugin((*plugins)[i], fmt::format("plugins[{}].", i))));
  }
  list.json = DumpJson(document);
  return list;
}

}  // namespace caisson::net

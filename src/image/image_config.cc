// SPDX-License-Identifier: Apache-2.0
#include "image/image_config.h"

#include <algorithm>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/limits.h"
#include "image/digest.h"

namespace caisson::image {
namespace {

constexpr size_t kMaxUser = 256;
constexpr size_t kMaxSignal = 32;
constexpr size_t kMaxPlatformWord = 64;

Error Bad(std::string_view field, std::string_view why) {
  return MakeError(Code::kInvalidArgument, "image config: {}: {}", field, why);
}

const Json* Find(const Json& object, const char* key) {
  auto at = object.find(key);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

bool HasControl(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

// A string of at most `most` bytes without NUL: no kernel interface that these strings end in can carry one.
Result<std::string> CheckText(const Json& value, const std::string& field, size_t most) {
  const auto* text = value.get_ptr<const std::string*>();
  if (text == nullptr) return Bad(field, "is not a string");
  if (text->size() > most) return Bad(field, fmt::format("is longer than {} bytes", most));
  if (text->find('\0') != std::string::npos) return Bad(field, "holds a NUL byte");
  return *text;
}

Result<std::string> GetText(const Json& object, const char* key, const std::string& path,
                            size_t most = limits::kImageConfigEntryBytes) {
  const Json* value = Find(object, key);
  if (value == nullptr) return std::string();
  return CheckText(*value, path + key, most);
}

// A word that is shown and compared but never free text.
Result<std::string> GetWord(const Json& object, const char* key, const std::string& path, size_t most) {
  std::string word = TRY(GetText(object, key, path, most));
  if (HasControl(word)) return Bad(path + key, "holds a control character");
  return word;
}

Result<std::vector<std::string>> GetTexts(const Json& object, const char* key, const std::string& path, size_t most) {
  std::vector<std::string> out;
  const Json* value = Find(object, key);
  if (value == nullptr) return out;
  if (!value->is_array()) return Bad(path + key, "is not a list");
  if (value->size() > most) return Bad(path + key, fmt::format("has more than {} entries", most));
  out.reserve(value->size());
  for (const Json& item : *value) {
    out.push_back(TRY(CheckText(item, fmt::format("{}{}[{}]", path, key, out.size()), limits::kImageConfigEntryBytes)));
  }
  return out;
}

// Each entry is NAME=VALUE. A value may hold line ends (certificates do), but not HOME: it is written to files that
// have lines (CVE-2022-4318).
Result<> CheckEnv(const std::vector<std::string>& env) {
  for (size_t i = 0; i < env.size(); ++i) {
    std::string field = fmt::format("config.Env[{}]", i);
    size_t equals = env[i].find('=');
    if (equals == std::string::npos || equals == 0) return Bad(field, "is not NAME=VALUE");
    std::string_view name = std::string_view(env[i]).substr(0, equals);
    if (HasControl(name)) return Bad(field, "has a control character in its name");
    if (name == "HOME" && HasControl(env[i])) return Bad(field, "HOME holds a control character");
  }
  return {};
}

Result<std::vector<std::string>> GetVolumes(const Json& config) {
  std::vector<std::string> volumes;
  const Json* value = Find(config, "Volumes");
  if (value == nullptr) return volumes;
  if (!value->is_object()) return Bad("config.Volumes", "is not an object");
  if (value->size() > limits::kImageConfigEntries) return Bad("config.Volumes", "has too many entries");
  for (const auto& [path, unused] : value->items()) {
    if (path.size() > limits::kPathBytes) return Bad("config.Volumes", "holds a path that is too long");
    if (path.empty() || path.find('\0') != std::string::npos) return Bad("config.Volumes", "holds an unusable path");
    volumes.push_back(path);
  }
  return volumes;
}

Result<std::map<std::string, std::string>> GetLabels(const Json& config) {
  std::map<std::string, std::string> labels;
  const Json* value = Find(config, "Labels");
  if (value == nullptr) return labels;
  if (!value->is_object()) return Bad("config.Labels", "is not an object");
  if (value->size() > limits::kImageConfigEntries) return Bad("config.Labels", "has too many entries");
  for (const auto& [key, item] : value->items()) {
    const auto* text = item.get_ptr<const std::string*>();
    if (text == nullptr) {
      return Bad("config.Labels", fmt::format("the value of '{}' is not a string", key.substr(0, 100)));
    }
    labels.emplace(key, *text);
  }
  return labels;
}

Result<> ParseExecution(const Json& json, ImageConfig* out) {
  const Json* config = Find(json, "config");
  if (config == nullptr) return {};
  if (!config->is_object()) return Bad("config", "is not an object");
  const std::string path = "config.";
  out->user = TRY(GetWord(*config, "User", path, kMaxUser));
  out->env = TRY(GetTexts(*config, "Env", path, limits::kImageConfigEntries));
  TRY(CheckEnv(out->env));
  out->entrypoint = TRY(GetTexts(*config, "Entrypoint", path, limits::kImageConfigEntries));
  out->cmd = TRY(GetTexts(*config, "Cmd", path, limits::kImageConfigEntries));
  out->working_dir = TRY(GetText(*config, "WorkingDir", path, limits::kPathBytes));
  out->stop_signal = TRY(GetWord(*config, "StopSignal", path, kMaxSignal));
  out->volumes = TRY(GetVolumes(*config));
  out->labels = TRY(GetLabels(*config));
  return {};
}

Result<std::vector<std::string>> ParseRootfs(const Json& json) {
  const Json* rootfs = Find(json, "rootfs");
  if (rootfs == nullptr) return Bad("rootfs", "is missing");
  if (!rootfs->is_object()) return Bad("rootfs", "is not an object");
  std::string type = TRY(GetText(*rootfs, "type", "rootfs."));
  if (type != "layers") return Bad("rootfs.type", "is not 'layers'");
  auto diff_ids = TRY(GetTexts(*rootfs, "diff_ids", "rootfs.", limits::kImageLayers));
  for (size_t i = 0; i < diff_ids.size(); ++i) {
    auto good = CheckDigest(diff_ids[i]);
    if (!good) return Bad(fmt::format("rootfs.diff_ids[{}]", i), good.error().message);
  }
  return diff_ids;
}

Result<std::vector<History>> ParseHistory(const Json& json) {
  std::vector<History> out;
  const Json* history = Find(json, "history");
  if (history == nullptr) return out;
  if (!history->is_array()) return Bad("history", "is not a list");
  if (history->size() > limits::kImageConfigEntries) return Bad("history", "has too many entries");
  for (const Json& item : *history) {
    std::string path = fmt::format("history[{}].", out.size());
    if (!item.is_object()) return Bad(path, "is not an object");
    History entry;
    entry.created = TRY(GetText(item, "created", path));
    entry.created_by = TRY(GetText(item, "created_by", path));
    entry.author = TRY(GetText(item, "author", path));
    entry.comment = TRY(GetText(item, "comment", path));
    if (const Json* empty = Find(item, "empty_layer")) {
      if (!empty->is_boolean()) return Bad(path + "empty_layer", "is not true or false");
      entry.empty_layer = empty->get<bool>();
    }
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace

Result<ParsedImageConfig> ParseImageConfig(std::string_view bytes) {
  auto json = ParseJson(bytes, limits::kImageConfigBytes);
  if (!json) return std::move(json.error()).Within("image config");
  if (!json->is_object()) return Bad("document", "is not an object");
  ParsedImageConfig out;
  out.config.os = TRY(GetWord(*json, "os", "", kMaxPlatformWord));
  out.config.architecture = TRY(GetWord(*json, "architecture", "", kMaxPlatformWord));
  out.config.variant = TRY(GetWord(*json, "variant", "", kMaxPlatformWord));
  out.created = TRY(GetText(*json, "created", ""));
  out.author = TRY(GetText(*json, "author", ""));
  TRY(ParseExecution(*json, &out.config));
  out.diff_ids = TRY(ParseRootfs(*json));
  out.history = TRY(ParseHistory(*json));
  return out;
}

}  // namespace caisson::image

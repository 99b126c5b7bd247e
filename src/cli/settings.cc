// SPDX-License-Identifier: Apache-2.0
#include "cli/settings.h"

#include <glob.h>

#include <algorithm>
#include <sstream>

#include "base/limits.h"
#include "base/strings.h"
#include "base/toml.h"
#include "sys/path.h"

namespace caisson::cli {
namespace {

constexpr size_t kMaxFiles = 64;

bool IsBare(const std::string& key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_'; });
}

void AddLeaf(const toml::node& node, Setting setting, std::vector<Setting>* settings) {
  if (auto text = node.value_exact<std::string>()) {
    setting.value = std::move(*text);
  } else if (auto number = node.value_exact<int64_t>()) {
    setting.value = *number;
  } else if (auto truth = node.value_exact<bool>()) {
    setting.value = *truth;
  } else if (const toml::array* array = node.as_array();
             array != nullptr && std::all_of(array->begin(), array->end(), [](const toml::node& one) { return one.is_string(); })) {
    std::vector<std::string> list;
    for (const toml::node& one : *array) list.push_back(one.value_or(std::string()));
    setting.value = std::move(list);
  } else {
    std::ostringstream text;
    node.visit([&text](const auto& one) { text << one; });
    setting.value = text.str();
  }
  settings->push_back(std::move(setting));
}

void Flatten(const toml::table& table, const std::vector<std::string>& above, std::vector<Setting>* settings) {
  for (const auto& [key, node] : table) {
    std::vector<std::string> path = above;
    path.emplace_back(key.str());
    if (const toml::table* inner = node.as_table()) {
      Flatten(*inner, path, settings);
    } else {
      AddLeaf(node, {std::move(path), {}}, settings);
    }
  }
}

std::vector<std::string> Glob(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> paths;
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) paths.assign(found.gl_pathv, found.gl_pathv + std::min(found.gl_pathc, kMaxFiles));
  globfree(&found);
  return paths;
}

std::vector<std::string> PatternsIn(const std::vector<Setting>& settings, const std::string& path) {
  std::vector<std::string> patterns;
  for (const Setting& setting : settings) {
    const auto* list = std::get_if<std::vector<std::string>>(&setting.value);
    if (setting.path != std::vector<std::string>{"imports"} || list == nullptr) continue;
    for (const std::string& pattern : *list) {
      patterns.push_back(pattern.starts_with('/') ? pattern : sys::SplitPath(path).first + "/" + pattern);
    }
  }
  patterns.push_back(path + ".d/*");
  return patterns;
}

// The last of each name counts.
void Override(std::vector<Setting>* settings, std::vector<Setting> later) {
  for (Setting& one : later) {
    std::erase_if(*settings, [&](const Setting& old) { return old.path == one.path; });
    settings->push_back(std::move(one));
  }
}

}  // namespace

std::string Setting::Name() const {
  std::vector<std::string> words;
  for (const std::string& key : path) words.push_back(IsBare(key) ? key : "\"" + key + "\"");
  return Join(words, ".");
}

bool Setting::Empty() const {
  struct Visitor {
    bool operator()(const std::string& text) const { return text.empty(); }
    bool operator()(int64_t number) const { return number == 0; }
    bool operator()(bool truth) const { return !truth; }
    bool operator()(const std::vector<std::string>& list) const { return list.empty(); }
  };
  return std::visit(Visitor(), value);
}

Result<std::vector<Setting>> ParseSettings(std::string_view text, const std::string& origin) {
  if (text.size() > limits::kConfigFileBytes) return MakeError(Code::kInvalidArgument, "{}: longer than {} bytes", origin, limits::kConfigFileBytes);
  toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    return MakeError(Code::kInvalidArgument, "{}:{}: {}", origin, error.source().begin.line, error.description());
  }
  std::vector<Setting> settings;
  Flatten(parsed.table(), {}, &settings);
  return settings;
}

Result<std::vector<Setting>> ReadSettings(const std::string& path) {
  std::vector<Setting> settings;
  auto text = sys::ReadFile(path, limits::kConfigFileBytes);
  if (text) {
    settings = TRY(ParseSettings(*text, path));
  } else if (text.error().sys_errno != ENOENT || Glob(path + ".d/*").empty()) {
    return std::move(text.error());
  }
  for (const std::string& pattern : PatternsIn(settings, path)) {
    for (const std::string& file : Glob(pattern)) {
      std::string more = TRY(sys::ReadFile(file, limits::kConfigFileBytes));
      Override(&settings, TRY(ParseSettings(more, file)));
    }
  }
  return settings;
}

}  // namespace caisson::cli

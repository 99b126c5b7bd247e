// SPDX-License-Identifier: Apache-2.0
#include "cri/reload.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/strings.h"

namespace caisson::cri {
namespace {

// "table.key" and its value, of what FormatConfig prints: a table's header or a key with its value on each line; a long list goes
// on until the line that ends with its bracket.
std::vector<std::pair<std::string, std::string>> Keys(const Config& config) {
  std::vector<std::pair<std::string, std::string>> keys;
  const std::string text = FormatConfig(config);
  std::string table;
  bool in_list = false;
  for (std::string_view line : Split(text, '\n')) {
    if (in_list) {
      keys.back().second += line;
      in_list = !line.ends_with(']');
      continue;
    }
    if (line.starts_with('[')) {
      table = std::string(line.substr(1, line.find(']') - 1));
      if (table.starts_with("handlers.")) keys.emplace_back(table, "");
      continue;
    }
    size_t equals = line.find(" = ");
    if (equals == std::string_view::npos) continue;
    std::string key(line.substr(0, equals)), value(line.substr(equals + 3));
    in_list = value.starts_with('[') && !value.ends_with(']');
    if (table.starts_with("handlers.")) keys.back().second += key + "=" + value + ";";
    else keys.emplace_back(table.empty() ? key : table + "." + key, std::move(value));
  }
  return keys;
}

}  // namespace

std::vector<std::string> ChangedKeys(const Config& before, const Config& after) {
  auto old_keys = Keys(before), new_keys = Keys(after);
  std::map<std::string, std::string> old_values(old_keys.begin(), old_keys.end()), new_values(new_keys.begin(), new_keys.end());
  std::vector<std::string> changed;
  for (const auto& [key, value] : new_keys) {
    auto old_value = old_values.find(key);
    if (old_value == old_values.end() || old_value->second != value) changed.push_back(key);
  }
  for (const auto& [key, value] : old_keys) {
    if (!new_values.contains(key)) changed.push_back(key);
  }
  return changed;
}

bool TakesEffectAtOnce(const std::string& key) { return key == "log_level"; }

}  // namespace caisson::cri

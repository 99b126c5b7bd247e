// SPDX-License-Identifier: Apache-2.0
#include "shim/shim_settings.h"

#include <algorithm>
#include <cerrno>
#include <initializer_list>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/limits.h"
#include "sys/path.h"

namespace caisson::shim {
namespace {

constexpr int64_t kMostMachineVcpus = 256, kLeastMachineBytes = int64_t{128} << 20, kMostMachineBytes = int64_t{1} << 44;

Error Wrong(const std::string& key, const std::string& what) { return MakeError(Code::kInvalidArgument, "'{}' must be {}", key, what); }

Result<> ReadWord(const std::string& key, const Json& value, std::initializer_list<const char*> words, std::string* to) {
  if (value.is_string()) *to = value.get_ref<const std::string&>();
  bool known = value.is_string() && std::any_of(words.begin(), words.end(), [&](const char* word) { return *to == word; });
  std::string all;
  for (const char* word : words) all += fmt::format("{}\"{}\"", all.empty() ? "" : " or ", word);
  return known ? Result<>() : Result<>(Wrong(key, all));
}

Result<> ReadPath(const std::string& key, const Json& value, std::string* to) {
  if (!value.is_string() || !value.get_ref<const std::string&>().starts_with('/')) return Wrong(key, "an absolute path");
  *to = value.get_ref<const std::string&>();
  return {};
}

Result<> ReadNumber(const std::string& key, const Json& value, int64_t least, int64_t most, int64_t* to) {
  const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(most);
  if (!fits || value.get<int64_t>() < least) return Wrong(key, fmt::format("a whole number from {} to {}", least, most));
  *to = value.get<int64_t>();
  return {};
}

Result<> ReadSetting(const std::string& key, const Json& value, ShimSettings* to) {
  if (key == "sandbox") return ReadWord(key, value, {"native", "vm"}, &to->sandbox);
  if (key == "machine") return ReadWord(key, value, {"microvm", "q35"}, &to->machine);
  if (key == "accelerator") return ReadWord(key, value, {"auto", "kvm", "tcg"}, &to->accelerator);
  if (key == "kernel") return ReadPath(key, value, &to->kernel);
  if (key == "initrd") return ReadPath(key, value, &to->initrd);
  if (key == "vmm_path") return ReadPath(key, value, &to->vmm_path);
  if (key == "vcpus") return ReadNumber(key, value, 1, kMostMachineVcpus, &to->vcpus);
  if (key == "memory_bytes") return ReadNumber(key, value, kLeastMachineBytes, kMostMachineBytes, &to->memory_bytes);
  if (key == "first_vmm_id") return ReadNumber(key, value, 1000, int64_t{UINT32_MAX} - kVmmIds, &to->first_vmm_id);
  return MakeError(Code::kInvalidArgument, "unknown key '{}'", key.substr(0, 64));
}

}  // namespace

Result<ShimSettings> ParseShimSettings(std::string_view text) {
  Json json = TRY(ParseJson(text, limits::kConfigFileBytes));
  if (!json.is_object()) return MakeError(Code::kInvalidArgument, "it is no JSON object");
  ShimSettings settings;
  for (const auto& [key, value] : json.items()) TRY(ReadSetting(key, value, &settings));
  return settings;
}

Result<ShimSettings> LoadShimSettings(const std::string& path) {
  const std::string file = path.empty() ? kShimSettingsFile : path;
  auto text = sys::ReadFile(file, limits::kConfigFileBytes);
  if (!text && path.empty() && text.error().sys_errno == ENOENT) return ShimSettings();
  if (!text) return std::move(text.error());
  auto settings = ParseShimSettings(*text);
  if (!settings) return std::move(settings.error()).Within(fmt::format("settings '{}'", file));
  return settings;
}

}  // namespace caisson::shim

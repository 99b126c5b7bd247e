// SPDX-License-Identifier: Apache-2.0
#include "cri/cdi_spec.h"

#include <algorithm>
#include <limits>
#include <set>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "cri/yaml.h"

namespace caisson::cri {
namespace {

// Released versions, the oldest first; what a member needs is named by its place.
constexpr std::string_view kVersions[] = {"0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"};
enum Since { kSince030, kSince040, kSince050, kSince060, kSince070, kSince080, kSince100, kSince110 };

constexpr std::string_view kHookNames[] = {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"};
constexpr size_t kMaxClass = 63, kMaxVendor = 253, kMaxDeviceName = 255;

bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

bool IsName(std::string_view text, size_t most, std::string_view inside, bool digit_first) {
  if (text.empty() || text.size() > most) return false;
  if (!IsLetter(text.front()) && !(digit_first && IsDigit(text.front()))) return false;
  if (!IsLetter(text.back()) && !IsDigit(text.back())) return false;
  return std::all_of(text.begin(), text.end(), [&](char c) { return IsLetter(c) || IsDigit(c) || inside.find(c) != std::string_view::npos; });
}

bool IsKind(std::string_view kind) {
  size_t slash = kind.find('/');
  if (slash == std::string_view::npos) return false;
  return IsName(kind.substr(0, slash), kMaxVendor, "_-.", false) && IsName(kind.substr(slash + 1), kMaxClass, "_-.", false);
}

bool IsDeviceName(std::string_view name) { return IsName(name, kMaxDeviceName, "_-.:", true); }

bool IsVariable(std::string_view variable) {
  size_t equals = variable.find('=');
  if (equals == 0 || equals == std::string_view::npos || variable.find('\0') != std::string_view::npos) return false;
  std::string_view name = variable.substr(0, equals);
  return std::all_of(name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) > 0x20 && c != 0x7f; });
}

bool IsAbsolute(std::string_view path) { return path.starts_with('/') && path.size() < limits::kPathBytes && path.find('\0') == std::string_view::npos; }

// One object of the document. Every member is asked for; Done() refuses those that were not.
class Members {
 public:
  static Result<Members> Of(const Json& json, std::string path, Since* needed) {
    if (!json.is_object()) return Bad(path.empty() ? "document" : path, "is not an object");
    return Members(json, std::move(path), needed);
  }

  static Error Bad(std::string_view member, std::string_view why) { return MakeError(Code::kInvalidArgument, "{} {}", member.substr(0, 256), why); }
  Error BadMember(const char* key, std::string_view why) const { return Bad(Path(key), why); }
  std::string Path(const char* key) const { return path_.empty() ? key : path_ + "." + key; }

  const Json* Find(const char* key, Since since = kSince030) {
    asked_.insert(key);
    auto found = json_.find(key);
    if (found == json_.end() || found->is_null()) return nullptr;
    *needed_ = std::max(*needed_, since);
    return &*found;
  }

  Result<std::string> Text(const char* key, Since since = kSince030) {
    const Json* value = Find(key, since);
    if (value == nullptr) return std::string();
    if (!value->is_string()) return BadMember(key, "is not a text");
    return value->get<std::string>();
  }

  Result<const Json*> List(const char* key, Since since = kSince030) {
    const Json* value = Find(key, since);
    if (value == nullptr) return value;
    if (!value->is_array()) return BadMember(key, "is not a list");
    if (value->size() > limits::kCdiEdits) return MakeError(Code::kResourceExhausted, "{} has more than {} entries", Path(key), limits::kCdiEdits);
    return value;
  }

  Result<std::vector<std::string>> Texts(const char* key) {
    std::vector<std::string> texts;
    const Json* list = TRY(List(key));
    for (size_t i = 0; list != nullptr && i < list->size(); ++i) {
      if (!(*list)[i].is_string()) return BadMember(key, "holds something that is not a text");
      texts.push_back((*list)[i].get<std::string>());
      if (texts.back().find('\0') != std::string::npos) return BadMember(key, "holds a NUL");
    }
    return texts;
  }

  // A whole number of `least` to `most`.
  Result<std::optional<int64_t>> Number(const char* key, int64_t least, int64_t most) {
    const Json* value = Find(key);
    if (value == nullptr) return std::optional<int64_t>();
    bool whole = value->is_number_integer() && (!value->is_number_unsigned() || value->get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
    if (!whole || value->get<int64_t>() < least || value->get<int64_t>() > most) return BadMember(key, fmt::format("is not a whole number of {} to {}", least, most));
    return std::optional(value->get<int64_t>());
  }

  Result<std::optional<uint32_t>> Id(const char* key) {
    auto number = TRY(Number(key, 0, std::numeric_limits<uint32_t>::max()));
    return number ? std::optional(static_cast<uint32_t>(*number)) : std::nullopt;
  }

  Result<> Done() const {
    for (const auto& [key, value] : json_.items()) {
      if (!asked_.contains(key)) return Bad(path_.empty() ? "document" : path_, fmt::format("has a member '{}' that is not known", key.substr(0, 64)));
    }
    return {};
  }

  // For each entry of a list of objects: `visit`, then Done.
  template <class Visit>
  Result<> Each(const char* key, Visit visit) {
    const Json* list = TRY(List(key));
    for (size_t i = 0; list != nullptr && i < list->size(); ++i) {
      Members entry = TRY(Of((*list)[i], fmt::format("{}[{}]", Path(key), i), needed_));
      TRY(visit(entry));
      TRY(entry.Done());
    }
    return {};
  }

  Since* needed() { return needed_; }

 private:
  Members(const Json& json, std::string path, Since* needed) : json_(json), path_(std::move(path)), needed_(needed) {}

  const Json& json_;
  std::string path_;
  Since* needed_;
  std::set<std::string> asked_;
};

Result<> ReadNode(Members& entry, CdiEdits* edits) {
  CdiDeviceNode node;
  node.path = TRY(entry.Text("path"));
  if (!IsAbsolute(node.path)) return entry.BadMember("path", "is not an absolute path");
  node.host_path = TRY(entry.Text("hostPath", kSince050));
  if (node.host_path.empty()) node.host_path = node.path;
  if (!IsAbsolute(node.host_path)) return entry.BadMember("hostPath", "is not an absolute path");
  node.type = TRY(entry.Text("type"));
  if (node.type.size() > 1 || std::string_view("bcup").find(node.type) == std::string_view::npos) return entry.BadMember("type", "is not 'b', 'c', 'u' or 'p'");
  // dev_t of Linux: 12 bits and 20 (kdev_t.h).
  node.major = TRY(entry.Number("major", 0, 0xfff)).value_or(0);
  node.minor = TRY(entry.Number("minor", 0, 0xfffff)).value_or(0);
  auto mode = TRY(entry.Number("fileMode", 0, std::numeric_limits<uint32_t>::max()));
  if (mode) node.file_mode = static_cast<uint32_t>(*mode) & 07777;
  std::string permissions = TRY(entry.Text("permissions"));
  node.permissions = permissions.empty() ? "rwm" : permissions == "none" ? "" : permissions;
  if (node.permissions.find_first_not_of("rwm") != std::string::npos) return entry.BadMember("permissions", "is not of \"rwm\"");
  node.uid = TRY(entry.Id("uid"));
  node.gid = TRY(entry.Id("gid"));
  edits->device_nodes.push_back(std::move(node));
  return {};
}

Result<> ReadMount(Members& entry, CdiEdits* edits) {
  CdiMount mount;
  mount.host_path = TRY(entry.Text("hostPath"));
  mount.container_path = TRY(entry.Text("containerPath"));
  mount.type = TRY(entry.Text("type", kSince040));
  mount.options = TRY(entry.Texts("options"));
  if (mount.host_path.empty()) return entry.BadMember("hostPath", "is missing");
  if (!IsAbsolute(mount.container_path)) return entry.BadMember("containerPath", "is not an absolute path");
  edits->mounts.push_back(std::move(mount));
  return {};
}

Result<> ReadHook(Members& entry, CdiEdits* edits) {
  CdiHook hook;
  hook.name = TRY(entry.Text("hookName"));
  if (std::find(std::begin(kHookNames), std::end(kHookNames), hook.name) == std::end(kHookNames)) return entry.BadMember("hookName", fmt::format("'{}' is not known", hook.name.substr(0, 64)));
  hook.path = TRY(entry.Text("path"));
  if (!IsAbsolute(hook.path)) return entry.BadMember("path", "is not an absolute path");
  hook.args = TRY(entry.Texts("args"));
  hook.env = TRY(entry.Texts("env"));
  if (!std::all_of(hook.env.begin(), hook.env.end(), IsVariable)) return entry.BadMember("env", "holds something that is not NAME=value");
  hook.timeout_seconds = TRY(entry.Number("timeout", 1, 24 * 3600)).value_or(0);
  edits->hooks.push_back(std::move(hook));
  return {};
}

Result<CdiEdits> ReadEdits(Members& owner) {
  CdiEdits edits;
  const Json* json = owner.Find("containerEdits");
  if (json == nullptr) return edits;
  Members members = TRY(Members::Of(*json, owner.Path("containerEdits"), owner.needed()));
  edits.env = TRY(members.Texts("env"));
  if (!std::all_of(edits.env.begin(), edits.env.end(), IsVariable)) return members.BadMember("env", "holds something that is not NAME=value");
  TRY(members.Each("deviceNodes", [&](Members& entry) { return ReadNode(entry, &edits); }));
  TRY(members.Each("mounts", [&](Members& entry) { return ReadMount(entry, &edits); }));
  TRY(members.Each("hooks", [&](Members& entry) { return ReadHook(entry, &edits); }));
  // The specification's text and its reference parser spell it differently.
  for (const char* key : {"additionalGids", "additionalGIDs"}) {
    const Json* list = TRY(members.List(key, kSince070));
    for (size_t i = 0; list != nullptr && i < list->size(); ++i) {
      const Json& gid = (*list)[i];
      if (!gid.is_number_unsigned() || gid.get<uint64_t>() > std::numeric_limits<int32_t>::max()) return members.BadMember(key, "holds something that is not a group id");
      if (gid != 0) edits.additional_gids.push_back(gid.get<uint32_t>());
    }
  }
  edits.intel_rdt = members.Find("intelRdt", kSince070) != nullptr;
  edits.net_devices = members.Find("netDevices", kSince110) != nullptr;
  TRY(members.Done());
  return edits;
}

// Notes for people; only that they are there tells of the version.
Result<> ReadAnnotations(Members& owner) {
  const Json* notes = owner.Find("annotations", kSince060);
  if (notes != nullptr && !notes->is_object()) return owner.BadMember("annotations", "is not an object");
  return {};
}

Result<> ReadDevices(Members& document, CdiSpec* spec, Since* needed) {
  TRY(document.Each("devices", [&](Members& entry) -> Result<> {
    CdiDevice device;
    device.name = TRY(entry.Text("name"));
    if (!IsDeviceName(device.name)) return entry.BadMember("name", fmt::format("'{}' is not the name of a device", device.name.substr(0, 64)));
    if (IsDigit(device.name[0])) *needed = std::max(*needed, kSince050);
    if (spec->Find(device.name) != nullptr) return entry.BadMember("name", fmt::format("'{}' is there twice", device.name));
    TRY(ReadAnnotations(entry));
    device.edits = TRY(ReadEdits(entry));
    spec->devices.push_back(std::move(device));
    return {};
  }));
  if (spec->devices.empty()) return Members::Bad("devices", "is empty");
  return {};
}

}  // namespace

void CdiEdits::Append(const CdiEdits& more) {
  auto append = [](auto* to, const auto& from) { to->insert(to->end(), from.begin(), from.end()); };
  append(&env, more.env);
  append(&device_nodes, more.device_nodes);
  append(&mounts, more.mounts);
  append(&hooks, more.hooks);
  append(&additional_gids, more.additional_gids);
  intel_rdt = intel_rdt || more.intel_rdt;
  net_devices = net_devices || more.net_devices;
}

const CdiDevice* CdiSpec::Find(std::string_view name) const {
  auto found = std::find_if(devices.begin(), devices.end(), [&](const CdiDevice& device) { return device.name == name; });
  return found == devices.end() ? nullptr : &*found;
}

Result<CdiSpec> ParseCdiSpec(std::string_view text, CdiFormat format) {
  Json json = TRY(format == CdiFormat::kYaml ? ParseYaml(text, limits::kCdiFileBytes) : ParseJson(text, limits::kCdiFileBytes));
  Since needed = kSince030;
  Members document = TRY(Members::Of(json, "", &needed));
  std::string version = TRY(document.Text("cdiVersion"));
  std::string_view bare = version;
  if (bare.starts_with('v')) bare.remove_prefix(1);
  auto known = std::find(std::begin(kVersions), std::end(kVersions), bare);
  if (known == std::end(kVersions)) return document.BadMember("cdiVersion", fmt::format("'{}' is not known", version.substr(0, 64)));
  CdiSpec spec;
  spec.kind = TRY(document.Text("kind"));
  if (!IsKind(spec.kind)) return document.BadMember("kind", fmt::format("'{}' is not a vendor and a class", spec.kind.substr(0, 320)));
  if (spec.kind.find('.', spec.kind.find('/')) != std::string::npos) needed = kSince060;
  TRY(ReadAnnotations(document));
  TRY(ReadDevices(document, &spec, &needed));
  spec.edits = TRY(ReadEdits(document));
  TRY(document.Done());
  if (needed > known - std::begin(kVersions)) return document.BadMember("cdiVersion", fmt::format("is {}, and the file has what came with {}", bare, kVersions[needed]));
  return spec;
}

Result<CdiName> ParseCdiName(const std::string& name) {
  size_t equals = name.find('=');
  if (equals == std::string::npos || !IsKind(std::string_view(name).substr(0, equals)) || !IsDeviceName(std::string_view(name).substr(equals + 1))) {
    return MakeError(Code::kInvalidArgument, "CDI device '{}' is not of the form vendor/class=name", name.substr(0, 600));
  }
  return CdiName{name.substr(0, equals), name.substr(equals + 1)};
}

}  // namespace caisson::cri

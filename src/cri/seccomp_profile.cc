// SPDX-License-Identifier: Apache-2.0
#include "cri/seccomp_profile.h"

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <set>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/limits.h"
#include "base/strings.h"
#include "seccomp_default_profile.h"

namespace caisson::cri {
namespace {

struct Machine {
  std::string_view uname, name, architecture;  // `name` is that of "arches" in profiles
};
constexpr std::array<Machine, 7> kMachines = {{{"x86_64", "amd64", "SCMP_ARCH_X86_64"},
                                               {"aarch64", "arm64", "SCMP_ARCH_AARCH64"},
                                               {"s390x", "s390x", "SCMP_ARCH_S390X"},
                                               {"ppc64le", "ppc64le", "SCMP_ARCH_PPC64LE"},
                                               {"riscv64", "riscv64", "SCMP_ARCH_RISCV64"},
                                               {"mips64", "mips64", "SCMP_ARCH_MIPS64"},
                                               {"armv7l", "arm", "SCMP_ARCH_ARM"}}};

const Machine* MachineOf(std::string_view uname) {
  for (const Machine& machine : kMachines) {
    if (machine.uname == uname) return &machine;
  }
  return nullptr;
}

Error Bad(const std::string& where, std::string_view what) {
  return MakeError(Code::kInvalidArgument, "seccomp profile: {} is not {}", where, what);
}

const Json* Find(const Json& object, const char* key) {
  auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Result<std::vector<std::string>> Strings(const Json& object, const char* key, const std::string& where) {
  std::vector<std::string> out;
  const Json* list = Find(object, key);
  if (list == nullptr) return out;
  if (!list->is_array()) return Bad(where + "." + key, "a list");
  for (const Json& item : *list) {
    if (!item.is_string()) return Bad(where + "." + key, "a list of strings");
    out.push_back(item.get_ref<const std::string&>());
  }
  return out;
}

bool Has(const std::vector<std::string>& list, std::string_view item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

// "4.8" is at most the kernel we run on.
Result<bool> KernelAtLeast(const Json& condition, const SeccompTarget& target, const std::string& where) {
  const Json* wanted = Find(condition, "minKernel");
  if (wanted == nullptr) return true;
  if (!wanted->is_string()) return Bad(where + ".minKernel", "a string");
  const std::string& text = wanted->get_ref<const std::string&>();
  std::vector<std::string_view> parts = Split(text, '.');
  auto major = ParseInt64(parts[0]);
  auto minor = ParseInt64(parts.size() > 1 ? parts[1] : "0");
  if (!major || !minor || parts.size() > 3) return Bad(where + ".minKernel", "a kernel version");
  return std::pair<int64_t, int64_t>(target.kernel_major, target.kernel_minor) >= std::pair<int64_t, int64_t>(*major, *minor);
}

// A rule applies if all that "includes" demands holds and nothing that "excludes" names does.
Result<bool> Applies(const Json& rule, const SeccompTarget& target, const std::string& where) {
  const Machine* machine = MachineOf(target.machine);
  std::string_view arch = machine == nullptr ? std::string_view(target.machine) : machine->name;
  if (const Json* includes = Find(rule, "includes")) {
    std::string at = where + ".includes";
    if (!includes->is_object()) return Bad(at, "an object");
    for (const std::string& cap : TRY(Strings(*includes, "caps", at))) {
      if (!Has(target.caps, cap)) return false;
    }
    auto arches = TRY(Strings(*includes, "arches", at));
    if (!arches.empty() && !Has(arches, arch)) return false;
    if (!TRY(KernelAtLeast(*includes, target, at))) return false;
  }
  if (const Json* excludes = Find(rule, "excludes")) {
    std::string at = where + ".excludes";
    if (!excludes->is_object()) return Bad(at, "an object");
    for (const std::string& cap : TRY(Strings(*excludes, "caps", at))) {
      if (Has(target.caps, cap)) return false;
    }
    if (Has(TRY(Strings(*excludes, "arches", at)), arch)) return false;
    if (Find(*excludes, "minKernel") != nullptr && TRY(KernelAtLeast(*excludes, target, at))) return false;
  }
  return true;
}

Result<> ResolveArchitectures(const Json& profile, const SeccompTarget& target, Json* out) {
  const Json* map = Find(profile, "archMap");
  const Machine* machine = MachineOf(target.machine);
  if (map == nullptr) return {};
  if (Find(profile, "architectures") != nullptr) {
    return MakeError(Code::kInvalidArgument, "seccomp profile: both architectures and archMap are given");
  }
  if (!map->is_array()) return Bad("archMap", "a list");
  for (const Json& entry : *map) {
    if (!entry.is_object()) return Bad("archMap", "a list of objects");
    const Json* name = Find(entry, "architecture");
    if (name == nullptr || !name->is_string()) return Bad("archMap.architecture", "a string");
    if (machine == nullptr || name->get_ref<const std::string&>() != machine->architecture) continue;
    Json list = Json::array({*name});
    for (const std::string& sub : TRY(Strings(entry, "subArchitectures", "archMap"))) list.push_back(sub);
    (*out)["architectures"] = std::move(list);
  }
  return {};
}

Result<Json> ResolveRule(const Json& rule, const std::string& where) {
  Json out = Json::object();
  for (const char* key : {"names", "action", "errnoRet", "args"}) {
    if (const Json* value = Find(rule, key)) out[key] = *value;
  }
  // Older profiles say "name" of one call.
  if (const Json* name = Find(rule, "name"); name != nullptr && out.find("names") == out.end()) {
    if (!name->is_string()) return Bad(where + ".name", "a string");
    out["names"] = Json::array({*name});
  }
  if (!out["names"].is_array() || out["names"].empty()) return Bad(where + ".names", "a list of syscalls");
  if (out.find("action") == out.end() || !out["action"].is_string()) return Bad(where + ".action", "a string");
  return out;
}

Result<std::string> Resolve(const Json& profile, const SeccompTarget& target) {
  if (!profile.is_object()) return Bad("it", "an object");
  Json out = Json::object();
  for (const char* key :
       {"defaultAction", "defaultErrnoRet", "architectures", "flags", "listenerPath", "listenerMetadata"}) {
    if (const Json* value = Find(profile, key)) out[key] = *value;
  }
  if (out.find("defaultAction") == out.end()) return Bad("defaultAction", "there");
  TRY(ResolveArchitectures(profile, target, &out));
  if (const Json* rules = Find(profile, "syscalls")) {
    if (!rules->is_array()) return Bad("syscalls", "a list");
    if (rules->size() > limits::kSeccompSyscalls) {
      return MakeError(Code::kResourceExhausted, "seccomp profile: more than {} rules", limits::kSeccompSyscalls);
    }
    Json list = Json::array();
    for (size_t i = 0; i < rules->size(); ++i) {
      const Json& rule = (*rules)[i];
      std::string where = fmt::format("syscalls[{}]", i);
      if (!rule.is_object()) return Bad(where, "an object");
      if (TRY(Applies(rule, target, where))) list.push_back(TRY(ResolveRule(rule, where)));
    }
    out["syscalls"] = std::move(list);
  }
  return DumpJson(out);
}

// The capabilities that conditions of `profile` name: all others leave its meaning as it is.
std::set<std::string> CapsThatMatter(const Json& profile) {
  std::set<std::string> out;
  for (const Json& rule : profile.value("syscalls", Json::array())) {
    for (const char* key : {"includes", "excludes"}) {
      const Json* condition = Find(rule, key);
      if (condition == nullptr) continue;
      if (const Json* caps = Find(*condition, "caps")) {
        for (const Json& cap : *caps) out.insert(cap.get<std::string>());
      }
    }
  }
  return out;
}

// The built-in profile, parsed at first use, with the answers given so far (at most one per set of those capabilities).
struct Default {
  Result<Json> profile = ParseJson(kSeccompDefaultProfile);
  std::set<std::string> caps = profile ? CapsThatMatter(*profile) : std::set<std::string>();
  std::mutex mutex;
  std::map<std::vector<std::string>, std::string> answers;  // guarded by mutex
};
constexpr size_t kMaxAnswers = 64;

}  // namespace

SeccompTarget SeccompTargetOfHost(std::vector<std::string> caps) {
  SeccompTarget target;
  target.caps = std::move(caps);
  utsname host{};
  if (uname(&host) != 0) return target;
  target.machine = host.machine;
  std::vector<std::string_view> parts = Split(host.release, '.');
  target.kernel_major = static_cast<int>(ParseInt64(parts[0]).value_or(0));
  // "18" of "6.18.44-x", "18" of "6.18-rc1".
  std::string_view minor = parts.size() > 1 ? parts[1] : std::string_view();
  minor = minor.substr(0, minor.find_first_not_of("0123456789"));
  target.kernel_minor = static_cast<int>(ParseInt64(minor).value_or(0));
  return target;
}

Result<std::string> ResolveSeccomp(std::string_view profile, const SeccompTarget& target) {
  auto json = ParseJson(profile, limits::kConfigFileBytes);
  if (!json) return std::move(json.error()).Within("seccomp profile");
  return Resolve(*json, target);
}

Result<std::string> DefaultSeccomp(const std::vector<std::string>& caps) {
  static Default built_in;
  if (!built_in.profile) return built_in.profile.error();
  std::vector<std::string> key;
  for (const std::string& cap : built_in.caps) {
    if (Has(caps, cap)) key.push_back(cap);
  }
  {
    std::lock_guard lock(built_in.mutex);
    auto found = built_in.answers.find(key);
    if (found != built_in.answers.end()) return found->second;
  }
  std::string answer = TRY(Resolve(*built_in.profile, SeccompTargetOfHost(key)));
  std::lock_guard lock(built_in.mutex);
  if (built_in.answers.size() < kMaxAnswers) built_in.answers[key] = answer;
  return answer;
}

}  // namespace caisson::cri

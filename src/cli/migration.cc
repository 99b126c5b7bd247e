// SPDX-License-Identifier: Apache-2.0
#include "cli/migration.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "base/id.h"
#include "base/strings.h"
#include "cli/toml_text.h"

namespace caisson::cli {
namespace {

enum class Kind {
  kText,
  kPath,
  kFirstPath,  // "a:b", of which we have the first
  kList,       // or a single string
  kNumber,
  kTruth,
  kSeconds,  // "4h0m0s", or a number of them
  kLevel,
  kSeccomp,  // the profile of those who name none
  kSystemd,  // true: systemd makes the cgroups
  kSame,  // there is nothing to say about it
  kNone,  // no counterpart; `to` is the reason
};

struct Rule {
  const char* from;  // below the CRI's table
  Kind kind;
  const char* to;  // "table.key" of ours
  int64_t least = 0, most = INT64_MAX;
};

constexpr const char* kNoPause = "there is no pause container";
constexpr const char* kOwnStore = "caissond keeps images and pods in folders of its own; images are pulled anew";
constexpr const char* kNoSnapshotter = "layers are always kept as overlay";
constexpr const char* kKubelet = "the kubelet's endpoint is caissond's socket";

constexpr Rule kContainerdRules[] = {
    {"version", Kind::kSame, ""},
    {"imports", Kind::kSame, ""},
    {"root", Kind::kNone, kOwnStore},
    {"state", Kind::kNone, kOwnStore},
    {"grpc.address", Kind::kNone, kKubelet},
    {"debug.level", Kind::kLevel, "log_level"},
    {"metrics.address", Kind::kText, "metrics.address"},
    {"systemd_cgroup", Kind::kSystemd, "cgroup_driver"},
    {"sandbox_image", Kind::kNone, kNoPause},
    {"pinned_images.sandbox", Kind::kNone, kNoPause},
    {"cni.bin_dir", Kind::kList, "cni.bin_dirs"},
    {"cni.bin_dirs", Kind::kList, "cni.bin_dirs"},
    {"cni.conf_dir", Kind::kPath, "cni.conf_dir"},
    {"cni.conf_template", Kind::kNone, "templates are other ones here (cni.conf_template in docs/config.md)"},
    {"cni.max_conf_num", Kind::kNumber, "cni.max_conf_files", 1, 64},
    {"registry.config_path", Kind::kFirstPath, "images.certs_dir"},
    {"max_container_log_line_size", Kind::kNumber, "containers.log_line_bytes", 64, 1 << 20},
    {"enable_unprivileged_ports", Kind::kTruth, "containers.unprivileged_ports"},
    {"enable_unprivileged_icmp", Kind::kTruth, "containers.unprivileged_icmp"},
    {"unset_seccomp_profile", Kind::kSeccomp, "containers.seccomp_default"},
    {"cdi_spec_dirs", Kind::kList, "containers.cdi_spec_dirs"},
    {"enable_cdi", Kind::kSame, ""},
    {"max_concurrent_downloads", Kind::kNumber, "images.max_parallel_downloads", 1, 64},
    {"image_pull_progress_timeout", Kind::kSeconds, "images.stall_timeout_seconds", 1, 3600},
    {"stream_server_address", Kind::kText, "streaming.address"},
    {"stream_server_port", Kind::kNumber, "streaming.port", 0, 65535},
    {"stream_idle_timeout", Kind::kSeconds, "streaming.idle_timeout_seconds", 1, 7 * 24 * 3600},
    {"x509_key_pair_streaming.tls_cert_file", Kind::kPath, "streaming.tls_certificate"},
    {"x509_key_pair_streaming.tls_key_file", Kind::kPath, "streaming.tls_key"},
    {"enable_tls_streaming", Kind::kSame, ""},
    {"stats_collect_period", Kind::kSeconds, "stats.sample_seconds", 0, 3600},
    {"snapshotter", Kind::kNone, kNoSnapshotter},
    {"containerd.snapshotter", Kind::kNone, kNoSnapshotter},
    {"netns_mounts_under_state_dir", Kind::kSame, ""},
};

constexpr Rule kCrioRules[] = {
    {"crio.root", Kind::kNone, kOwnStore},
    {"crio.runroot", Kind::kNone, kOwnStore},
    {"crio.storage_driver", Kind::kNone, kNoSnapshotter},
    {"crio.api.listen", Kind::kNone, kKubelet},
    {"crio.api.stream_address", Kind::kText, "streaming.address"},
    {"crio.api.stream_port", Kind::kNumber, "streaming.port", 0, 65535},
    {"crio.api.stream_enable_tls", Kind::kSame, ""},
    {"crio.api.stream_tls_cert", Kind::kPath, "streaming.tls_certificate"},
    {"crio.api.stream_tls_key", Kind::kPath, "streaming.tls_key"},
    {"crio.api.stream_idle_timeout", Kind::kSeconds, "streaming.idle_timeout_seconds", 1, 7 * 24 * 3600},
    {"crio.image.pause_image", Kind::kNone, kNoPause},
    {"crio.image.pause_command", Kind::kNone, kNoPause},
    {"crio.image.global_auth_file", Kind::kPath, "images.docker_config"},
    {"crio.image.pinned_images", Kind::kList, "images.pinned"},
    {"crio.image.pull_progress_timeout", Kind::kSeconds, "images.stall_timeout_seconds", 1, 3600},
    {"crio.network.network_dir", Kind::kPath, "cni.conf_dir"},
    {"crio.network.plugin_dirs", Kind::kList, "cni.bin_dirs"},
    {"crio.runtime.cgroup_manager", Kind::kText, "cgroup_driver"},
    {"crio.runtime.log_level", Kind::kLevel, "log_level"},
    {"crio.runtime.seccomp_profile", Kind::kPath, "containers.seccomp_profile"},
    {"crio.runtime.pids_limit", Kind::kNumber, "containers.pids_limit", 0, INT64_MAX},
    {"crio.runtime.default_capabilities", Kind::kList, "containers.default_capabilities"},
    {"crio.runtime.cdi_spec_dirs", Kind::kList, "containers.cdi_spec_dirs"},
    {"crio.runtime.enable_criu_support", Kind::kSame, ""},
    {"crio.runtime.conmon", Kind::kNone, "the companion of a pod reads its containers' output"},
    {"crio.stats.collection_period", Kind::kSeconds, "stats.sample_seconds", 0, 3600},
    {"crio.stats.stats_collection_period", Kind::kSeconds, "stats.sample_seconds", 0, 3600},
};

// Go's duration, whole seconds of it: "1h30m", "5m0s", "250ms" (0).
std::optional<int64_t> Seconds(const std::string& text) {
  constexpr std::pair<std::string_view, int64_t> kUnits[] = {{"h", 3'600'000}, {"ms", 1}, {"m", 60'000}, {"s", 1000}};
  int64_t millis = 0;
  std::string_view rest = text;
  if (rest.empty()) return std::nullopt;
  while (!rest.empty()) {
    size_t digits = std::min(rest.find_first_not_of("0123456789"), rest.size());
    auto number = ParseInt64(rest.substr(0, digits));
    rest.remove_prefix(digits);
    auto unit = std::find_if(std::begin(kUnits), std::end(kUnits), [&](const auto& one) { return rest.starts_with(one.first); });
    if (!number || *number > 1'000'000 || unit == std::end(kUnits)) return std::nullopt;
    millis += *number * unit->second;
    rest.remove_prefix(unit->first.size());
  }
  return millis / 1000;
}

std::optional<int64_t> NumberOf(const Setting& setting) {
  if (const auto* number = std::get_if<int64_t>(&setting.value)) return *number;
  const auto* text = std::get_if<std::string>(&setting.value);
  auto parsed = text ? ParseInt64(*text) : Result<int64_t>(MakeError(Code::kInvalidArgument, "no number"));
  return parsed ? std::optional(*parsed) : std::nullopt;
}

std::string TextOf(const Setting& setting) {
  const auto* text = std::get_if<std::string>(&setting.value);
  return text ? *text : "";
}

std::vector<std::string> ListOf(const Setting& setting) {
  if (const auto* list = std::get_if<std::vector<std::string>>(&setting.value)) return *list;
  std::string text = TextOf(setting);
  return text.empty() ? std::vector<std::string>() : std::vector{text};
}

// caissond has four of the levels.
std::optional<std::string> LevelOf(const std::string& word) {
  if (word == "trace" || word == "debug") return "debug";
  if (word == "fatal" || word == "panic" || word == "error") return "error";
  if (word == "warn" || word == "warning") return "warn";
  if (word == "info") return "info";
  return std::nullopt;
}

// The value as TOML has it, or nothing where ours cannot have it.
std::optional<std::string> Converted(const Setting& setting, const Rule& rule) {
  std::string text = TextOf(setting);
  switch (rule.kind) {
    case Kind::kText: return text.empty() ? std::nullopt : std::optional(QuotedToml(text));
    case Kind::kFirstPath: text = text.substr(0, text.find(':')); [[fallthrough]];
    case Kind::kPath: return text.starts_with('/') ? std::optional(QuotedToml(text)) : std::nullopt;
    case Kind::kList: {
      std::vector<std::string> words;
      for (const std::string& one : ListOf(setting)) words.push_back(QuotedToml(one));
      return words.empty() ? std::nullopt : std::optional("[" + Join(words, ", ") + "]");
    }
    case Kind::kTruth: {
      const auto* truth = std::get_if<bool>(&setting.value);
      return truth ? std::optional<std::string>(*truth ? "true" : "false") : std::nullopt;
    }
    case Kind::kNumber:
    case Kind::kSeconds: {
      auto number = NumberOf(setting);
      if (!number && rule.kind == Kind::kSeconds) number = Seconds(text);
      if (!number || *number < rule.least || *number > rule.most) return std::nullopt;
      return fmt::format("{}", *number);
    }
    case Kind::kLevel: {
      auto level = LevelOf(text);
      return level ? std::optional(QuotedToml(*level)) : std::nullopt;
    }
    case Kind::kSeccomp:
      if (text == "runtime/default" || text == "docker/default") return QuotedToml("RuntimeDefault");
      return text == "unconfined" ? std::optional(QuotedToml("Unconfined")) : std::nullopt;
    case Kind::kSystemd: return setting.Empty() ? std::nullopt : std::optional(QuotedToml("systemd"));
    case Kind::kSame:
    case Kind::kNone: return std::nullopt;
  }
  return std::nullopt;
}

// A runtime as theirs is configured.
struct Runtime {
  std::string type, program;
  std::string shim;  // a path; empty: by the type
  std::optional<bool> systemd;
  std::map<std::string, std::string> options;  // texts that shims are given
};

std::string BaseName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// Of ours, what stands in for it; empty: nothing.
std::string SandboxFor(const std::string& name, const Runtime& runtime) {
  const std::string& type = runtime.type;
  std::string program = BaseName(runtime.program);
  if (type.find("kata") != type.npos || program.find("kata") != program.npos || type.find("caisson-vm") != type.npos) return "vm";
  if (type == "io.containerd.caisson.v2" || program == "containerd-shim-caisson-v2") return "native";
  bool runs_oci = type.empty() || type == "oci" || type == "pod" || type.starts_with("io.containerd.runc.") || type == "io.containerd.runtime.v1.linux";
  if (program.empty()) program = type.empty() || type == "oci" || type == "pod" ? name : "runc";
  static const std::set<std::string> kOrdinary = {"runc", "crun", "youki", "caisson-oci"};
  return runs_oci && kOrdinary.contains(program) ? "native" : "";
}

// "io.containerd.kata.v2" of ".../containerd-shim-kata-v2"; empty: no shim has such a name.
std::string TypeOfShim(const std::string& path) {
  constexpr std::string_view kShim = "containerd-shim-";
  std::string name = BaseName(path);
  size_t dash = name.rfind('-');
  if (!name.starts_with(kShim) || dash <= kShim.size()) return "";
  return fmt::format("io.containerd.{}.{}", name.substr(kShim.size(), dash - kShim.size()), name.substr(dash + 1));
}

// The keys of our handler that runs the runtime itself (docs/handlers.md); empty: it cannot be told how.
std::map<std::string, std::string> ForeignHandlerFor(const Runtime& runtime) {
  if (runtime.type.empty() || runtime.type == "oci" || runtime.type == "pod") {
    if (!runtime.program.starts_with('/')) return {};
    return {{"runtime", QuotedToml(runtime.program)}};
  }
  const bool by_path = runtime.type == "vm";  // CRI-O's word
  std::string type = by_path ? TypeOfShim(runtime.program) : runtime.type, shim = by_path ? runtime.program : runtime.shim;
  if (std::count(type.begin(), type.end(), '.') < 2 || type.find('/') != type.npos || type == "io.containerd.runtime.v1.linux") return {};
  std::map<std::string, std::string> keys = {{"runtime_type", QuotedToml(type)}};
  if (!shim.empty()) keys["runtime_path"] = QuotedToml(shim);
  std::vector<std::string> options;
  for (const auto& [key, value] : runtime.options) options.push_back(fmt::format("{} = {}", key, QuotedToml(value)));
  if (!by_path && !runtime.program.empty()) options.push_back("BinaryName = " + QuotedToml(runtime.program));
  if (!options.empty()) keys["runtime_options"] = fmt::format("{{ {} }}", Join(options, ", "));
  return keys;
}

class Migrator {
 public:
  Migrator(const char* from, std::span<const Rule> rules) : from_(from), rules_(rules) {}

  // `name`: below the CRI's table, dotted. False: there is no rule for it.
  bool Take(const Setting& setting, const std::string& name) {
    auto rule = std::find_if(rules_.begin(), rules_.end(), [&](const Rule& one) { return name == one.from; });
    if (rule == rules_.end()) return false;
    if (rule->kind == Kind::kSame) return true;
    if (rule->kind == Kind::kNone) {
      if (!setting.Empty()) Note(setting, rule->to);
      return true;
    }
    if (auto value = Converted(setting, *rule)) {
      Set(rule->to, *value);
    } else if (!setting.Empty()) {
      Note(setting, fmt::format("its value cannot be {}'s", rule->to));
    }
    return true;
  }
  void Note(const Setting& setting, std::string_view reason = "") {
    notes_.push_back(reason.empty() ? setting.Name() : fmt::format("{}: {}", setting.Name(), reason));
  }
  void NoteText(std::string text) { notes_.push_back(std::move(text)); }
  void Set(const std::string& key, std::string value) {
    size_t dot = key.find('.');
    if (dot == std::string::npos) {
      tables_[""][key] = std::move(value);
    } else {
      tables_[key.substr(0, dot)][key.substr(dot + 1)] = std::move(value);
    }
  }
  Runtime& runtime(const std::string& name) { return runtimes_[name]; }
  void set_default(std::string name) { default_ = std::move(name); }

  std::vector<std::string>* notes() { return &notes_; }
  // With the folder that they are to be written into.
  void set_registries(Registries registries, const std::string& certs_dir) {
    registries_ = std::move(registries);
    if (!registries_.empty()) Set("images.certs_dir", QuotedToml(certs_dir));
  }

  Migration Finish() && {
    Handlers();
    std::string toml = fmt::format("# caissond's configuration, by `caisson migrate --from {}`.\n", from_);
    for (const auto& [table, keys] : tables_) {
      if (!table.empty()) toml += fmt::format("\n[{}]\n", table);
      for (const auto& [key, value] : keys) toml += fmt::format("{} = {}\n", key, value);
    }
    return {std::move(toml), std::move(notes_), std::move(registries_)};
  }

 private:
  void Handlers() {
    for (const auto& [name, runtime] : runtimes_) {
      std::string sandbox = SandboxFor(name, runtime);
      std::map<std::string, std::string> keys = {{"sandbox", QuotedToml(sandbox)}};
      if (sandbox.empty()) keys = ForeignHandlerFor(runtime);
      if (keys.empty() || !IsSafeName(name)) {
        NoteText(fmt::format("runtime '{}' ({}): nothing says which program it is; write [handlers.NAME] for it (docs/handlers.md)", name,
                             runtime.type.empty() ? runtime.program : runtime.type));
        continue;
      }
      tables_["handlers." + (name.find('.') == name.npos ? name : QuotedToml(name))] = std::move(keys);
      if (name != default_) continue;
      Set("default_handler", QuotedToml(name));
      if (runtime.systemd) Set("cgroup_driver", *runtime.systemd ? "\"systemd\"" : "\"cgroupfs\"");
    }
    if (!default_.empty() && !tables_[""].contains("default_handler")) NoteText(fmt::format("the default runtime '{}': it stays caisson", default_));
  }

  const char* from_;
  std::span<const Rule> rules_;
  std::map<std::string, std::map<std::string, std::string>> tables_;
  std::map<std::string, Runtime> runtimes_;
  std::string default_;
  std::vector<std::string> notes_;
  Registries registries_;
};

bool StartsWith(const std::vector<std::string>& path, std::initializer_list<const char*> words) {
  return path.size() > words.size() && std::equal(words.begin(), words.end(), path.begin(), [](const char* a, const std::string& b) { return a == b; });
}

// The path below the CRI's table, for all versions; of what is in no plugin the whole.
std::optional<std::vector<std::string>> BelowCri(const std::vector<std::string>& path) {
  if (path[0] != "plugins") return path;
  for (const char* plugin : {"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"}) {
    if (StartsWith(path, {"plugins", plugin})) return std::vector<std::string>(path.begin() + 2, path.end());
  }
  return std::nullopt;
}

void TakeContainerdRuntime(const Setting& setting, const std::vector<std::string>& key, Runtime* runtime, Migrator* migrator) {
  std::string name = Join(key, ".");
  if (name == "runtime_type") {
    runtime->type = TextOf(setting);
  } else if (name == "options.BinaryName") {
    runtime->program = TextOf(setting);
  } else if (name == "runtime_path") {
    runtime->shim = TextOf(setting);
  } else if (key.size() == 2 && key[0] == "options" && IsSafeName(key[1]) && key[1].find('.') == key[1].npos && std::holds_alternative<std::string>(setting.value)) {
    if (!setting.Empty()) runtime->options[key[1]] = TextOf(setting);
  } else if (name == "options.SystemdCgroup") {
    const auto* systemd = std::get_if<bool>(&setting.value);
    if (systemd) runtime->systemd = *systemd;
  } else if (!setting.Empty()) {
    migrator->Note(setting);
  }
}

void TakeCrioRuntime(const Setting& setting, const std::vector<std::string>& key, Runtime* runtime, Migrator* migrator) {
  std::string name = Join(key, ".");
  if (name == "runtime_type") {
    runtime->type = TextOf(setting);
  } else if (name == "runtime_path") {
    runtime->program = TextOf(setting);
  } else if (name != "runtime_root" && name != "monitor_path" && !setting.Empty()) {
    migrator->Note(setting);
  }
}

}  // namespace

Migration MigrateContainerd(const std::vector<Setting>& settings, const std::string& certs_dir) {
  Migrator migrator("containerd", kContainerdRules);
  std::set<std::string> plugins;
  std::vector<Setting> registries;
  for (const Setting& setting : settings) {
    auto path = BelowCri(setting.path);
    if (!path) {
      if (setting.path.size() < 2 || !plugins.insert(setting.path[1]).second) continue;
      migrator.NoteText(fmt::format("plugin '{}': caissond has no plugins", setting.path[1]));
    } else if (StartsWith(*path, {"containerd", "runtimes"}) && path->size() > 3) {
      TakeContainerdRuntime(setting, {path->begin() + 3, path->end()}, &migrator.runtime((*path)[2]), &migrator);
    } else if (*path == std::vector<std::string>{"containerd", "default_runtime_name"}) {
      migrator.set_default(TextOf(setting));
    } else if (path->size() > 3 && (StartsWith(*path, {"registry", "mirrors"}) || StartsWith(*path, {"registry", "configs"}))) {
      registries.push_back({*path, setting.value});
    } else if (!migrator.Take(setting, Join(*path, ".")) && !setting.Empty()) {
      migrator.Note(setting);
    }
  }
  migrator.set_registries(ContainerdRegistries(registries, migrator.notes()), certs_dir);
  return std::move(migrator).Finish();
}

Migration MigrateCrio(const std::vector<Setting>& settings, Registries registries, const std::string& certs_dir) {
  Migrator migrator("crio", kCrioRules);
  for (const Setting& setting : settings) {
    const auto& path = setting.path;
    if (StartsWith(path, {"crio", "runtime", "runtimes"}) && path.size() > 4) {
      TakeCrioRuntime(setting, {path.begin() + 4, path.end()}, &migrator.runtime(path[3]), &migrator);
    } else if (path == std::vector<std::string>{"crio", "runtime", "default_runtime"}) {
      migrator.set_default(TextOf(setting));
    } else if (path == std::vector<std::string>{"crio", "image", "insecure_registries"}) {
      AddInsecureRegistries(ListOf(setting), &registries, migrator.notes());
    } else if (!migrator.Take(setting, Join(path, ".")) && !setting.Empty()) {
      migrator.Note(setting);
    }
  }
  migrator.set_registries(std::move(registries), certs_dir);
  return std::move(migrator).Finish();
}

}  // namespace caisson::cli

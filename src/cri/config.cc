// SPDX-License-Identifier: Apache-2.0
#include "cri/config.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sstream>
#include <variant>

#include "base/id.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/toml.h"
#include "base/unique_fd.h"

namespace caisson::cri {
namespace {

constexpr int64_t kMostVcpus = 255, kLeastVmBytes = int64_t{128} << 20, kMostVmBytes = int64_t{1} << 42;

// Where a key's value goes. The one list of all keys: parsing and printing both walk it.
struct Field {
  std::string_view table, key;
  std::variant<std::string*, int*, int64_t*, uint64_t*, bool*, std::vector<std::string>*, CgroupDriver*, std::map<std::string, std::string>*> at;
};

// The handlers that a key of [handlers.NAME] is for.
enum class HandlerKind { kAny, kOci, kShim, kVm };
struct HandlerField : Field {
  HandlerKind kind = HandlerKind::kAny;
};

std::vector<Field> Fields(Config* c) {
  return {
      {"", "root", &c->root},
      {"", "state", &c->state},
      {"", "socket", &c->socket},
      {"", "image_socket", &c->image_socket},
      {"", "log_level", &c->log_level},
      {"", "cgroup_driver", &c->cgroup_driver},
      {"", "default_handler", &c->default_handler},
      {"", "untrusted_handler", &c->untrusted_handler},
      {"", "shim_path", &c->shim_path},
      {"", "shim_timeout_seconds", &c->shim_timeout_seconds},
      {"", "max_threads", &c->max_threads},
      {"cni", "conf_dir", &c->cni.conf_dir},
      {"cni", "bin_dirs", &c->cni.bin_dirs},
      {"cni", "conf_template", &c->cni.conf_template},
      {"cni", "max_conf_files", &c->cni.max_conf_files},
      {"cni", "add_timeout_seconds", &c->cni.add_timeout_seconds},
      {"cni", "del_timeout_seconds", &c->cni.del_timeout_seconds},
      {"images", "certs_dir", &c->images.certs_dir},
      {"images", "docker_config", &c->images.docker_config},
      {"images", "pinned", &c->images.pinned},
      {"images", "max_parallel_downloads", &c->images.max_parallel_downloads},
      {"images", "stall_timeout_seconds", &c->images.stall_timeout_seconds},
      {"containers", "seccomp_default", &c->containers.seccomp_default},
      {"containers", "seccomp_profile", &c->containers.seccomp_profile},
      {"containers", "pids_limit", &c->containers.pids_limit},
      {"containers", "shm_bytes", &c->containers.shm_bytes},
      {"containers", "log_line_bytes", &c->containers.log_line_bytes},
      {"containers", "nofile_limit", &c->containers.nofile_limit},
      {"containers", "unprivileged_ports", &c->containers.unprivileged_ports},
      {"containers", "unprivileged_icmp", &c->containers.unprivileged_icmp},
      {"containers", "default_capabilities", &c->containers.default_capabilities},
      {"containers", "cdi_spec_dirs", &c->containers.cdi_spec_dirs},
      {"streaming", "address", &c->streaming.address},
      {"streaming", "port", &c->streaming.port},
      {"streaming", "base_url", &c->streaming.base_url},
      {"streaming", "tls_certificate", &c->streaming.tls_certificate},
      {"streaming", "tls_key", &c->streaming.tls_key},
      {"streaming", "idle_timeout_seconds", &c->streaming.idle_timeout_seconds},
      {"stats", "sample_seconds", &c->stats.sample_seconds},
      {"metrics", "address", &c->metrics.address},
      {"checkpoint", "criu", &c->checkpoint.criu},
      {"checkpoint", "restore", &c->checkpoint.restore},
      {"templates", "max_count", &c->templates.max_count},
      {"templates", "max_bytes", &c->templates.max_bytes},
      {"templates", "idle_seconds", &c->templates.idle_seconds},
      {"templates", "warm_count", &c->templates.warm_count},
  };
}

// Of a table [handlers.NAME].
std::vector<HandlerField> HandlerFields(HandlerConfig* h) {
  using enum HandlerKind;
  return {
      {{"", "shim_path", &h->shim_path}, kAny},
      {{"", "sandbox", &h->sandbox}, kAny},
      {{"", "runtime", &h->runtime}, kOci},
      {{"", "runtime_args", &h->runtime_args}, kOci},
      {{"", "runtime_type", &h->runtime_type}, kShim},
      {{"", "runtime_path", &h->runtime_path}, kShim},
      {{"", "runtime_options", &h->runtime_options}, kShim},
      {{"", "vmm", &h->vmm}, kVm},
      {{"", "vmm_path", &h->vmm_path}, kVm},
      {{"", "kernel", &h->kernel}, kVm},
      {{"", "initrd", &h->initrd}, kVm},
      {{"", "machine", &h->machine}, kVm},
      {{"", "accelerator", &h->accelerator}, kVm},
      {{"", "vcpus", &h->vcpus}, kVm},
      {{"", "memory_bytes", &h->memory_bytes}, kVm},
      {{"", "first_vmm_id", &h->first_vmm_id}, kVm},
      {{"", "templates", &h->templates}, kVm},
      {{"", "debug", &h->debug}, kVm},
  };
}

bool IsFor(HandlerKind kind, const HandlerConfig& handler) {
  switch (kind) {
    case HandlerKind::kAny: return true;
    case HandlerKind::kOci: return !handler.runtime.empty();
    case HandlerKind::kShim: return !handler.runtime_type.empty();
    case HandlerKind::kVm: return handler.IsVm();
  }
  return false;
}

const char* WordOf(HandlerKind kind) {
  switch (kind) {
    case HandlerKind::kOci: return "a handler with a 'runtime'";
    case HandlerKind::kShim: return "a handler with a 'runtime_type'";
    default: return "a handler with sandbox = \"vm\"";
  }
}

constexpr std::string_view kDriverWords[] = {"auto", "cgroupfs", "systemd"};

std::string FullKey(std::string_view table, std::string_view key) {
  return table.empty() ? std::string(key) : fmt::format("{}.{}", table, key);
}

// "config.toml:12: "
std::string At(std::string_view origin, const toml::node& node) {
  return fmt::format("{}:{}: ", origin, node.source().begin.line);
}

bool Assign(const toml::node& node, std::string* to) {
  auto value = node.value_exact<std::string>();
  if (value) *to = *value;
  return value.has_value();
}
bool Assign(const toml::node& node, bool* to) {
  auto value = node.value_exact<bool>();
  if (value) *to = *value;
  return value.has_value();
}
template <class Integer>
bool AssignInteger(const toml::node& node, Integer* to) {
  auto value = node.value_exact<int64_t>();
  if (!value || !std::in_range<Integer>(*value)) return false;
  *to = static_cast<Integer>(*value);
  return true;
}
bool Assign(const toml::node& node, int* to) { return AssignInteger(node, to); }
bool Assign(const toml::node& node, int64_t* to) { return AssignInteger(node, to); }
bool Assign(const toml::node& node, uint64_t* to) { return AssignInteger(node, to); }
bool Assign(const toml::node& node, std::vector<std::string>* to) {
  const toml::array* array = node.as_array();
  if (!array) return false;
  std::vector<std::string> values;
  for (const toml::node& element : *array) {
    if (!Assign(element, &values.emplace_back())) return false;
  }
  *to = std::move(values);
  return true;
}
bool Assign(const toml::node& node, CgroupDriver* to) {
  std::string word;
  if (!Assign(node, &word)) return false;
  for (int i = 0; i < 3; ++i) {
    if (word == kDriverWords[i]) return *to = static_cast<CgroupDriver>(i), true;
  }
  return false;
}

// A small table: a word, a number or a truth value under each key.
bool Assign(const toml::node& node, std::map<std::string, std::string>* to) {
  const toml::table* table = node.as_table();
  if (!table) return false;
  std::map<std::string, std::string> values;
  for (const auto& [key, value] : *table) {
    std::string& text = values[std::string(key.str())];
    bool truth = false;
    int64_t number = 0;
    if (Assign(value, &truth)) text = truth ? "true" : "false";
    else if (Assign(value, &number)) text = fmt::format("{}", number);
    else if (!Assign(value, &text)) return false;
  }
  *to = std::move(values);
  return true;
}

const char* TypeName(const Field& field) {
  constexpr const char* kNames[] = {"a string",  "a number",           "a number", "a number that is not negative",
                                    "a boolean", "an array of strings", "one of \"auto\", \"cgroupfs\", \"systemd\"",
                                    "a table of strings, numbers and booleans"};
  return kNames[field.at.index()];
}

Result<HandlerConfig> ReadHandler(const toml::table& table, std::string_view name, std::string_view origin) {
  HandlerConfig handler = DefaultHandler(name);
  auto fields = HandlerFields(&handler);
  std::vector<std::pair<const toml::node*, const HandlerField*>> given;
  for (const auto& [key, entry] : table) {
    auto field = std::find_if(fields.begin(), fields.end(), [&key = key](const Field& f) { return f.key == key.str(); });
    if (field == fields.end()) {
      return MakeError(Code::kInvalidArgument, "{}unknown key 'handlers.{}.{}'", At(origin, entry), name, key.str());
    }
    if (!std::visit([&entry = entry](auto* at) { return Assign(entry, at); }, field->at)) {
      return MakeError(Code::kInvalidArgument, "{}'handlers.{}.{}' must be {}", At(origin, entry), name, key.str(),
                       TypeName(*field));
    }
    given.emplace_back(&entry, &*field);
  }
  for (const auto& [entry, field] : given) {
    if (IsFor(field->kind, handler)) continue;
    return MakeError(Code::kInvalidArgument, "{}'handlers.{}.{}' is for {}", At(origin, *entry), name, field->key, WordOf(field->kind));
  }
  return handler;
}

Result<> ReadHandlers(const toml::node& node, std::string_view origin, Config* config) {
  const toml::table* handlers = node.as_table();
  if (!handlers) return MakeError(Code::kInvalidArgument, "{}'handlers' must be a table", At(origin, node));
  for (const auto& [name, value] : *handlers) {
    const toml::table* table = value.as_table();
    if (!table) {
      return MakeError(Code::kInvalidArgument, "{}'handlers.{}' must be a table", At(origin, value), name.str());
    }
    config->handlers[std::string(name.str())] = TRY(ReadHandler(*table, name.str(), origin));
  }
  return {};
}

Result<> ReadTable(const toml::table& table, std::string_view name, std::string_view origin, Config* config) {
  auto fields = Fields(config);
  for (const auto& [at, node] : table) {
    std::string_view key = at.str();
    if (name.empty() && key == "handlers") {
      TRY(ReadHandlers(node, origin, config));
      continue;
    }
    bool is_table = name.empty() && std::any_of(fields.begin(), fields.end(),
                                                [&](const Field& field) { return field.table == key; });
    if (is_table) {
      const toml::table* inner = node.as_table();
      if (!inner) return MakeError(Code::kInvalidArgument, "{}'{}' must be a table", At(origin, node), key);
      TRY(ReadTable(*inner, key, origin, config));
      continue;
    }
    auto field = std::find_if(fields.begin(), fields.end(),
                              [&](const Field& f) { return f.table == name && f.key == key; });
    if (field == fields.end()) {
      return MakeError(Code::kInvalidArgument, "{}unknown key '{}'", At(origin, node), FullKey(name, key));
    }
    if (!std::visit([&node = node](auto* to) { return Assign(node, to); }, field->at)) {
      return MakeError(Code::kInvalidArgument, "{}'{}' must be {}", At(origin, node), FullKey(name, key),
                       TypeName(*field));
    }
  }
  return {};
}

void Insert(toml::table* table, const Field& field) {
  std::visit(
      [&](auto* at) {
        using T = std::remove_pointer_t<decltype(at)>;
        if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          toml::array array;
          for (const std::string& value : *at) array.push_back(value);
          table->insert_or_assign(field.key, std::move(array));
        } else if constexpr (std::is_same_v<T, std::map<std::string, std::string>>) {
          toml::table values;
          for (const auto& [key, value] : *at) values.insert_or_assign(key, value);
          table->insert_or_assign(field.key, std::move(values));
        } else if constexpr (std::is_same_v<T, CgroupDriver>) {
          table->insert_or_assign(field.key, kDriverWords[static_cast<int>(*at)]);
        } else if constexpr (std::is_same_v<T, uint64_t>) {
          table->insert_or_assign(field.key, static_cast<int64_t>(*at));
        } else {
          table->insert_or_assign(field.key, *at);
        }
      },
      field.at);
}

Result<> CheckPath(std::string_view key, const std::string& path, bool may_be_empty) {
  if (path.empty() && may_be_empty) return {};
  if (!path.starts_with('/') || path.size() > limits::kPathBytes || path.find('\0') != std::string::npos) {
    return MakeError(Code::kInvalidArgument, "'{}' must be an absolute path, not '{}'", key, path);
  }
  return {};
}

Result<> CheckRange(std::string_view key, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return {};
  return MakeError(Code::kInvalidArgument, "'{}' must be between {} and {}, not {}", key, least, most, value);
}

Result<> CheckMetrics(const MetricsSettings& metrics) {
  if (metrics.address.empty()) return {};
  size_t colon = metrics.address.rfind(':');
  auto port = ParseUint64(std::string_view(metrics.address).substr(colon == std::string::npos ? 0 : colon + 1));
  if (colon != std::string::npos && colon != 0 && port && *port <= 65'535) return {};
  return MakeError(Code::kInvalidArgument, "'metrics.address' is '{}', not an address and a port as 127.0.0.1:9465", metrics.address);
}

Result<> CheckStreaming(const StreamingSettings& streaming) {
  TRY(CheckRange("streaming.port", streaming.port, 0, 65'535));
  TRY(CheckRange("streaming.idle_timeout_seconds", streaming.idle_timeout_seconds, 1, 7 * 24 * 3600));
  TRY(CheckPath("streaming.tls_certificate", streaming.tls_certificate, true));
  TRY(CheckPath("streaming.tls_key", streaming.tls_key, true));
  if (streaming.tls_certificate.empty() == streaming.tls_key.empty()) return {};
  return MakeError(Code::kInvalidArgument, "'streaming.tls_certificate' and 'streaming.tls_key' need each other");
}

Result<> CheckOneOf(std::string_view key, const std::string& value, const std::vector<std::string>& words) {
  if (std::find(words.begin(), words.end(), value) != words.end()) return {};
  return MakeError(Code::kInvalidArgument, "'{}' must be one of {}, not '{}'", key, Join(words, ", "), value);
}

// What makes a handler's containers: this project's launcher, or one other program.
Result<> CheckRuntime(const std::string& name, const HandlerConfig& handler) {
  auto key = [&](const char* word) { return fmt::format("handlers.{}.{}", name, word); };
  TRY(CheckPath(key("runtime"), handler.runtime, true));
  TRY(CheckPath(key("runtime_path"), handler.runtime_path, true));
  if (!handler.runtime.empty() && !handler.runtime_type.empty()) {
    return MakeError(Code::kInvalidArgument, "'{}' and '{}' exclude each other: a handler has an OCI runtime or a shim", key("runtime"), key("runtime_type"));
  }
  if (handler.IsForeign() && handler.IsVm()) {
    return MakeError(Code::kInvalidArgument, "'{}' is no handler with sandbox = \"vm\": its VMs run this project's agent", key(handler.runtime.empty() ? "runtime_type" : "runtime"));
  }
  if (!handler.runtime_type.empty() && ShimNameOf(handler.runtime_type).empty()) {
    return MakeError(Code::kInvalidArgument, "'{}' must be a name as io.containerd.runc.v2, not '{}'", key("runtime_type"), handler.runtime_type);
  }
  return {};
}

Result<> CheckHandler(const std::string& name, const HandlerConfig& handler) {
  if (!IsSafeName(name)) return MakeError(Code::kInvalidArgument, "'{}' cannot be the name of a handler", name);
  auto key = [&](const char* word) { return fmt::format("handlers.{}.{}", name, word); };
  TRY(CheckPath(key("shim_path"), handler.shim_path, true));
  TRY(CheckOneOf(key("sandbox"), handler.sandbox, {"native", "vm"}));
  TRY(CheckRuntime(name, handler));
  TRY(CheckOneOf(key("vmm"), handler.vmm, {"qemu"}));
  TRY(CheckOneOf(key("machine"), handler.machine, {"microvm", "q35"}));
  TRY(CheckOneOf(key("accelerator"), handler.accelerator, {"auto", "kvm", "tcg"}));
  TRY(CheckPath(key("vmm_path"), handler.vmm_path, true));
  TRY(CheckPath(key("kernel"), handler.kernel, false));
  TRY(CheckPath(key("initrd"), handler.initrd, false));
  TRY(CheckRange(key("vcpus"), handler.vcpus, 1, kMostVcpus));
  TRY(CheckRange(key("memory_bytes"), handler.memory_bytes, kLeastVmBytes, kMostVmBytes));
  // Neither root nor 4294967295, which is no id (setresuid(2)).
  return CheckRange(key("first_vmm_id"), handler.first_vmm_id, 1000, int64_t{UINT32_MAX} - kVmmIds);
}

Result<> CheckHandlerNamed(const Config& config, std::string_view key, const std::string& name) {
  if (config.handlers.contains(name)) return {};
  return MakeError(Code::kInvalidArgument, "'{}' is '{}', which is not among the handlers", key, name);
}

}  // namespace

HandlerConfig DefaultHandler(std::string_view name) {
  HandlerConfig handler;
  if (name == kVmHandler) handler.sandbox = "vm";
  return handler;
}

// containerd's rule: the last two of the name's parts, of which there are at least three.
std::string ShimNameOf(std::string_view runtime_type) {
  const auto parts = Split(runtime_type, '.');
  if (parts.size() < 3) return {};
  for (std::string_view part : parts) {
    if (part.empty() || !IsSafeName(part)) return {};
  }
  return fmt::format("containerd-shim-{}-{}", parts[parts.size() - 2], parts.back());
}

Result<Config> ParseConfig(std::string_view text, std::string_view origin) {
  if (text.size() > limits::kConfigFileBytes) {
    return MakeError(Code::kInvalidArgument, "{}: longer than {} bytes", origin, limits::kConfigFileBytes);
  }
  toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    return MakeError(Code::kInvalidArgument, "{}:{}: {}", origin, error.source().begin.line, error.description());
  }
  Config config;
  TRY(ReadTable(parsed.table(), "", origin, &config));
  return config;
}

Result<Config> LoadConfig(const std::string& path, bool must_exist) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    if (errno == ENOENT && !must_exist) return Config();
    return ErrnoError("open '{}'", path);
  }
  std::string text;
  char buffer[4096];
  ssize_t n;
  while ((n = read(fd.get(), buffer, sizeof buffer)) > 0) {
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > limits::kConfigFileBytes) break;  // ParseConfig says it
  }
  if (n < 0) return ErrnoError("read '{}'", path);
  return ParseConfig(text, path);
}

Result<> ValidateConfig(const Config& config) {
  TRY(CheckPath("root", config.root, false));
  TRY(CheckPath("state", config.state, false));
  TRY(CheckPath("socket", config.socket, true));
  TRY(CheckPath("image_socket", config.image_socket, true));
  TRY(CheckPath("shim_path", config.shim_path, true));
  TRY(CheckPath("cni.conf_dir", config.cni.conf_dir, false));
  TRY(CheckPath("cni.conf_template", config.cni.conf_template, true));
  for (const std::string& dir : config.cni.bin_dirs) TRY(CheckPath("cni.bin_dirs", dir, false));
  TRY(CheckPath("images.certs_dir", config.images.certs_dir, true));
  TRY(CheckPath("images.docker_config", config.images.docker_config, true));
  TRY(CheckPath("checkpoint.criu", config.checkpoint.criu, true));
  TRY(CheckPath("containers.seccomp_profile", config.containers.seccomp_profile, true));
  for (const std::string& dir : config.containers.cdi_spec_dirs) TRY(CheckPath("containers.cdi_spec_dirs", dir, false));
  log::Level level;
  if (!log::ParseLevel(config.log_level, &level)) {
    return MakeError(Code::kInvalidArgument, "'log_level' must be debug, info, warn or error, not '{}'",
                     config.log_level);
  }
  const std::string& seccomp = config.containers.seccomp_default;
  if (seccomp != "RuntimeDefault" && seccomp != "Unconfined") {
    return MakeError(Code::kInvalidArgument,
                     "'containers.seccomp_default' must be RuntimeDefault or Unconfined, not '{}'", seccomp);
  }
  TRY(CheckRange("shim_timeout_seconds", config.shim_timeout_seconds, 1, 3600));
  TRY(CheckRange("max_threads", config.max_threads, 8, 10'000));
  TRY(CheckRange("stats.sample_seconds", config.stats.sample_seconds, 0, 3600));
  TRY(CheckRange("templates.max_count", config.templates.max_count, 0, 1000));
  TRY(CheckRange("templates.max_bytes", config.templates.max_bytes, 0, int64_t{1} << 50));
  TRY(CheckRange("templates.warm_count", config.templates.warm_count, 0, 100));
  TRY(CheckRange("templates.idle_seconds", config.templates.idle_seconds, 1, 365 * 24 * 3600));
  TRY(CheckRange("cni.max_conf_files", config.cni.max_conf_files, 1, 64));
  TRY(CheckRange("cni.add_timeout_seconds", config.cni.add_timeout_seconds, 1, 3600));
  TRY(CheckRange("cni.del_timeout_seconds", config.cni.del_timeout_seconds, 1, 3600));
  TRY(CheckRange("images.max_parallel_downloads", config.images.max_parallel_downloads, 1, 64));
  TRY(CheckRange("images.stall_timeout_seconds", config.images.stall_timeout_seconds, 1, 3600));
  TRY(CheckRange("containers.pids_limit", config.containers.pids_limit, 0, int64_t{1} << 31));
  TRY(CheckRange("containers.shm_bytes", config.containers.shm_bytes, 4096, int64_t{1} << 40));
  TRY(CheckRange("containers.log_line_bytes", config.containers.log_line_bytes, 64, 1 << 20));
  TRY(CheckStreaming(config.streaming));
  TRY(CheckMetrics(config.metrics));
  for (const auto& [name, handler] : config.handlers) TRY(CheckHandler(name, handler));
  if (!config.untrusted_handler.empty()) TRY(CheckHandlerNamed(config, "untrusted_handler", config.untrusted_handler));
  return CheckHandlerNamed(config, "default_handler", config.default_handler);
}

std::vector<std::string> ChangedKeys(const Config& before, const Config& after) {
  Config old_config = before, new_config = after;
  const auto old_fields = Fields(&old_config), new_fields = Fields(&new_config);
  std::vector<std::string> changed;
  for (size_t i = 0; i < old_fields.size(); ++i) {
    bool same = std::visit([&](auto* value) { return *value == **std::get_if<decltype(value)>(&new_fields[i].at); }, old_fields[i].at);
    if (!same) changed.push_back(FullKey(old_fields[i].table, old_fields[i].key));
  }
  for (const auto& [name, handler] : after.handlers) {
    auto old_handler = before.handlers.find(name);
    if (old_handler == before.handlers.end() || old_handler->second != handler) changed.push_back("handlers." + name);
  }
  for (const auto& [name, handler] : before.handlers) {
    if (!after.handlers.contains(name)) changed.push_back("handlers." + name);
  }
  return changed;
}

std::string FormatConfig(const Config& config) {
  Config copy = config;
  toml::table document;
  for (const Field& field : Fields(&copy)) {
    if (field.table.empty()) {
      Insert(&document, field);
      continue;
    }
    if (!document.contains(field.table)) document.insert_or_assign(field.table, toml::table());
    Insert(document[field.table].as_table(), field);
  }
  toml::table handlers;
  for (auto& [name, handler] : copy.handlers) {
    auto fields = HandlerFields(&handler);
    toml::table table;
    for (const HandlerField& field : fields) {
      if (IsFor(field.kind, handler)) Insert(&table, field);
    }
    handlers.insert_or_assign(name, std::move(table));
  }
  document.insert_or_assign("handlers", std::move(handlers));
  std::ostringstream out;
  out << toml::toml_formatter(document) << "\n";
  return out.str();
}

}  // namespace caisson::cri

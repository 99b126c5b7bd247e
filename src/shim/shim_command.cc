// SPDX-License-Identifier: Apache-2.0
#include "shim/shim_command.h"

#include <cstring>
#include <map>

#include <nlohmann/json.hpp>

#include "base/id.h"
#include "base/json.h"
#include "base/sha256.h"
#include "base/strings.h"
#include "containerd/bootstrap.pb.h"
#include "containerd/runc_options.pb.h"
#include "containerd/runtime_options.pb.h"

namespace caisson::shim {
namespace {

namespace boot = containerd::runtime::bootstrap::v1;

constexpr int kNewestVersion = 3;

constexpr char kSandboxAnnotation[] = "io.caisson.sandbox";
// The first that is there names the pod: containerd's CRI, CRI-O, and what containerd's own shim for runc looks for.
constexpr const char* kGroupAnnotations[] = {"io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID", "io.containerd.runc.v2.group"};

std::string_view NameOf(std::string_view path) { return path.substr(path.rfind('/') + 1); }

Result<bool> ParseBool(const std::string& name, const std::string& value) {
  for (const char* yes : {"1", "t", "T", "true", "TRUE", "True"}) {
    if (value == yes) return true;
  }
  for (const char* no : {"0", "f", "F", "false", "FALSE", "False"}) {
    if (value == no) return false;
  }
  return MakeError(Code::kInvalidArgument, "flag '-{}' is '{}', neither true nor false", name, value.substr(0, 64));
}

Result<> CheckCommand(const ShimCommand& command) {
  if (command.version || command.info) return {};
  if (command.action != "start" && command.action != "delete") {
    return MakeError(Code::kInvalidArgument, "no action '{}' (there are: start, delete)", command.action.substr(0, 64));
  }
  if (!IsSafeName(command.id)) return MakeError(Code::kInvalidArgument, "'-id {}' is no container's id", command.id.substr(0, 128));
  if (!IsSafeName(command.name_space)) return MakeError(Code::kInvalidArgument, "'-namespace {}' is no namespace", command.name_space.substr(0, 128));
  return {};
}

bool IsRuncOptions(const wkt::Any& options) { return options.type_url().ends_with("containerd.runc.v1.Options"); }
// What the CRI makes of the options of a runtime that it does not know.
bool IsRuntimeOptions(const wkt::Any& options) { return options.type_url().ends_with("runtimeoptions.v1.Options"); }

// A text among the annotations; null: there is none of that name.
const std::string* FindAnnotation(const Json& config, const char* name) {
  auto annotations = config.find("annotations");
  if (annotations == config.end() || !annotations->is_object()) return nullptr;
  auto found = annotations->find(name);
  return found == annotations->end() || !found->is_string() ? nullptr : &found->get_ref<const std::string&>();
}

Result<Json> ParseConfigObject(const std::string& config_json) {
  Json config = TRY(ParseJson(config_json));
  if (!config.is_object()) return MakeError(Code::kInvalidArgument, "the configuration is no object");
  return config;
}

}  // namespace

bool ShimCommand::vm() const { return NameOf(program).starts_with("containerd-shim-caisson-vm-"); }

bool IsShimCommand(int argc, char** argv) {
  if (argc < 2 || argv[1][0] != '-') return false;
  return std::strcmp(argv[1], "--help") != 0 && std::strcmp(argv[1], "-h") != 0;
}

Result<ShimCommand> ParseShimCommand(int argc, char** argv) {
  ShimCommand command;
  command.program = argv[0];
  std::string ignored;  // sockets are ours to choose
  std::map<std::string, std::string*> texts = {{"namespace", &command.name_space}, {"id", &command.id},         {"address", &command.address},
                                               {"publish-binary", &command.publish_binary}, {"bundle", &command.bundle}, {"socket", &ignored},
                                               {"debug-socket", &ignored}};
  std::map<std::string, bool*> switches = {{"debug", &command.debug}, {"v", &command.version}, {"version", &command.version}, {"info", &command.info}};
  int i = 1;
  for (; i < argc && argv[i][0] == '-' && argv[i][1] != '\0'; ++i) {
    std::string name = argv[i][1] == '-' ? argv[i] + 2 : argv[i] + 1, value;
    size_t equals = name.find('=');
    bool has_value = equals != std::string::npos;
    if (has_value) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    if (auto flag = switches.find(name); flag != switches.end()) {
      *flag->second = !has_value || TRY(ParseBool(name, value));
      continue;
    }
    auto text = texts.find(name);
    if (text == texts.end()) return MakeError(Code::kInvalidArgument, "unknown flag '-{}' (try --help)", name.substr(0, 64));
    if (!has_value && ++i >= argc) return MakeError(Code::kInvalidArgument, "flag '-{}' has no value", name);
    *text->second = has_value ? value : argv[i];
  }
  if (i < argc) command.action = argv[i];
  TRY(CheckCommand(command));
  return command;
}

Result<std::string> SettingsPathOf(const wkt::Any& options) {
  if (!IsRuntimeOptions(options)) return std::string();
  runtimeoptions::v1::Options file;
  if (!file.ParseFromString(options.value())) return MakeError(Code::kInvalidArgument, "the runtime options do not parse");
  if (!file.config_path().empty() && file.config_path()[0] != '/') {
    return MakeError(Code::kInvalidArgument, "the runtime option ConfigPath '{}' is no absolute path", file.config_path().substr(0, 256));
  }
  return file.config_path();
}

Result<StartInput> ParseStartInput(const std::string& input, const ShimCommand& command) {
  StartInput start;
  start.debug = command.debug;
  boot::BootstrapParams params;
  // Runtime options parse as these, too: whose they are says which it is.
  start.bootstrap = params.ParseFromString(input) && !params.instance_id().empty() && params.instance_id() == command.id &&
                    params.namespace_() == command.name_space;
  wkt::Any options;
  if (start.bootstrap) {
    start.ttrpc_address = params.containerd_ttrpc_address();
    start.socket_dir = params.socket_dir();
    start.debug = start.debug || params.log_level() < boot::LOG_LEVEL_INFO;
    for (const auto& extension : params.extensions()) {
      if (IsRuncOptions(extension.value()) || IsRuntimeOptions(extension.value())) options = extension.value();
    }
  } else if (!input.empty() && !options.ParseFromString(input)) {
    return MakeError(Code::kInvalidArgument, "the runtime options on stdin do not parse");
  }
  start.settings_path = TRY(SettingsPathOf(options));
  if (IsRuncOptions(options)) {
    containerd::runc::v1::Options runc;
    if (!runc.ParseFromString(options.value())) return MakeError(Code::kInvalidArgument, "the runc options on stdin do not parse");
    start.shim_cgroup = runc.shim_cgroup();
  }
  return start;
}

std::string StartAnswer(const StartInput& input, const std::string& max_version, const std::string& address) {
  if (input.bootstrap) {
    boot::BootstrapResult result;
    result.set_version(kNewestVersion);
    result.set_address(address);
    result.set_protocol("ttrpc");
    return result.SerializeAsString();
  }
  auto version = ParseInt64(max_version);
  if (!version || *version < 2) return address;
  return DumpJson(Json{{"version", std::min<int64_t>(*version, kNewestVersion)}, {"address", address}, {"protocol", "ttrpc"}});
}

Result<std::string> GroupOf(const std::string& config_json, const std::string& id) {
  Json config = TRY(ParseConfigObject(config_json));
  for (const char* name : kGroupAnnotations) {
    const std::string* group = FindAnnotation(config, name);
    if (group == nullptr) continue;
    if (!IsSafeName(*group)) return MakeError(Code::kInvalidArgument, "annotation '{}' is no id", name);
    return *group;
  }
  return id;
}

Result<std::string> SandboxOf(const std::string& config_json) {
  Json config = TRY(ParseConfigObject(config_json));
  const std::string* sandbox = FindAnnotation(config, kSandboxAnnotation);
  if (sandbox == nullptr) return std::string();
  if (*sandbox == "native" || *sandbox == "vm") return *sandbox;
  return MakeError(Code::kInvalidArgument, "annotation '{}' is '{}', neither native nor vm", kSandboxAnnotation, sandbox->substr(0, 64));
}

std::string SocketPath(const std::string& folder, const ShimCommand& command, const std::string& group) {
  std::string key = Join({"caisson", command.address, command.name_space, group}, "/");
  return folder + "/" + HexEncode(Sha256(key));
}

}  // namespace caisson::shim

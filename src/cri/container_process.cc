// SPDX-License-Identifier: Apache-2.0
#include <sys/utsname.h>

#include <algorithm>

#include "cri/spec_parts.h"

namespace caisson::cri {

using nlohmann::json;

namespace {

constexpr char kDefaultPath[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// A key with a line end or '=' would become another variable to whoever reads it again (CVE-2022-4318).
bool ValidKey(std::string_view key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f && c != '='; });
}

// Replaces a variable of the same name, or adds one.
Result<> SetVariable(std::vector<std::string>* env, const std::string& key, const std::string& value) {
  if (!ValidKey(key) || value.find('\0') != std::string::npos) return MakeError(Code::kInvalidArgument, "environment variable '{}' cannot be", key.substr(0, 64));
  std::string prefix = key + "=";
  for (auto& variable : *env) {
    if (variable.starts_with(prefix)) {
      variable = prefix + value;
      return {};
    }
  }
  env->push_back(prefix + value);
  return {};
}

bool Has(const std::vector<std::string>& env, std::string_view prefix) {
  return std::any_of(env.begin(), env.end(), [&](const std::string& variable) { return variable.starts_with(prefix); });
}

std::string HostnameOf(const PodRecord& pod) {
  if (!pod.config().hostname().empty()) return pod.config().hostname();
  utsname name{};
  uname(&name);
  return name.nodename;
}

}  // namespace

// CRI ContainerConfig.command and args against the image's Entrypoint and Cmd: a command takes the place of both, arguments
// alone take the place of Cmd.
Result<json> ArgsOf(const runtime::v1::ContainerConfig& config, const image::ImageConfig& image) {
  std::vector<std::string> args;
  if (config.command_size() > 0) {
    args.assign(config.command().begin(), config.command().end());
  } else {
    args = image.entrypoint;
  }
  if (config.args_size() > 0) {
    args.insert(args.end(), config.args().begin(), config.args().end());
  } else if (config.command_size() == 0) {
    args.insert(args.end(), image.cmd.begin(), image.cmd.end());
  }
  if (args.empty()) return MakeError(Code::kInvalidArgument, "container '{}': neither it nor its image says what to run", config.metadata().name());
  for (const auto& arg : args) {
    if (arg.find('\0') != std::string::npos) return MakeError(Code::kInvalidArgument, "container '{}': an argument has a NUL", config.metadata().name());
  }
  return json(args);
}

Result<json> EnvironmentOf(const ContainerSpecInputs& inputs, const std::string& home) {
  std::vector<std::string> env;
  for (const auto& variable : inputs.image.config.env) {
    size_t equals = variable.find('=');
    if (equals == std::string::npos) continue;  // no value: nothing to set
    TRY(SetVariable(&env, variable.substr(0, equals), variable.substr(equals + 1)));
  }
  if (!Has(env, "PATH=")) env.emplace_back(kDefaultPath);
  const auto& config = inputs.container.config();
  if (config.tty() && !Has(env, "TERM=")) env.emplace_back("TERM=xterm");
  TRY(SetVariable(&env, "HOSTNAME", HostnameOf(inputs.pod)));
  for (const auto& variable : config.envs()) TRY(SetVariable(&env, variable.key(), variable.value()));
  if (!Has(env, "HOME=")) {
    if (home.find('\n') != std::string::npos) return MakeError(Code::kInvalidArgument, "the user's home folder has a line end");
    env.push_back("HOME=" + home);
  }
  return json(env);
}

}  // namespace caisson::cri

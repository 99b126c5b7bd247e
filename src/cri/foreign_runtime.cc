// SPDX-License-Identifier: Apache-2.0
#include "cri/foreign_runtime.h"

#include <unistd.h>

#include <cstdlib>

#include "base/strings.h"
#include "cri/user_namespace.h"

namespace caisson::cri {
namespace {

// For a daemon that was started without a PATH.
constexpr char kPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

Result<std::string> FindShim(const std::string& name, const HandlerConfig& handler) {
  const std::string shim = ShimNameOf(handler.runtime_type);
  const char* path = getenv("PATH");
  for (std::string_view dir : Split(path != nullptr ? path : kPath, ':')) {
    if (!dir.starts_with('/')) continue;
    std::string candidate = fmt::format("{}/{}", dir, shim);
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return MakeError(Code::kFailedPrecondition, "handler '{}': '{}', the program of its runtime_type '{}', is not in PATH", name, shim, handler.runtime_type);
}

Result<std::string> FindProgram(const std::string& name, const HandlerConfig& handler) {
  const std::string& given = handler.runtime.empty() ? handler.runtime_path : handler.runtime;
  if (given.empty()) return FindShim(name, handler);
  if (access(given.c_str(), X_OK) == 0) return given;
  return MakeError(Code::kFailedPrecondition, "handler '{}': its runtime '{}': {}", name, given, strerror(errno));
}

}  // namespace

Result<pod::v1::ForeignRuntime> ForeignRuntimeOf(const std::string& name, const HandlerConfig& handler) {
  pod::v1::ForeignRuntime runtime;
  runtime.set_program(TRY(FindProgram(name, handler)));
  runtime.set_type(handler.runtime_type);
  for (const std::string& argument : handler.runtime_args) runtime.add_arguments(argument);
  for (const auto& [key, value] : handler.runtime_options) (*runtime.mutable_options())[key] = value;
  return runtime;
}

Result<> CheckForeignPod(const std::string& name, const runtime::v1::PodSandboxConfig& pod) {
  if (!HasUserNamespace(pod)) return {};
  return MakeError(Code::kUnimplemented, "handler '{}' has a runtime of another project's, whose pods cannot have user namespaces", name);
}

}  // namespace caisson::cri

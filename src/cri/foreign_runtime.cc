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

// containerd, internal/cri/annotations. gVisor's shim finds the pod's volumes by its log directory, Kata's sizes its VM by the resources.
void AddSandboxAnnotations(const runtime::v1::PodSandboxConfig& pod, pod::v1::ForeignRuntime* runtime) {
  auto set = [&](const char* name, std::string value) { (*runtime->mutable_annotations())[fmt::format("io.kubernetes.cri.sandbox-{}", name)] = std::move(value); };
  set("name", pod.metadata().name());
  set("namespace", pod.metadata().namespace_());
  set("uid", pod.metadata().uid());
  set("log-directory", pod.log_directory());
  if (!pod.linux().has_resources()) return;
  const auto& resources = pod.linux().resources();
  set("cpu-period", std::to_string(resources.cpu_period()));
  set("cpu-quota", std::to_string(resources.cpu_quota()));
  set("cpu-shares", std::to_string(resources.cpu_shares()));
  set("memory", std::to_string(resources.memory_limit_in_bytes()));
}

Result<> CheckForeignPod(const std::string& name, const runtime::v1::PodSandboxConfig& pod) {
  if (!HasUserNamespace(pod)) return {};
  return MakeError(Code::kUnimplemented, "handler '{}' has a runtime of another project's, whose pods cannot have user namespaces", name);
}

}  // namespace caisson::cri

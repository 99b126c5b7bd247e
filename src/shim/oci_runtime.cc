// SPDX-License-Identifier: Apache-2.0
#include "shim/oci_runtime.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "oci/clone.h"
#include "shim/cgroup_record.h"
#include "shim/foreign_spec.h"
#include "sys/own_program.h"
#include "sys/path.h"

namespace caisson::shim {
namespace {

constexpr int64_t kRuntimeKillMillis = 5'000;

std::string RemainsPath(const std::string& bundle) { return bundle + "/bundles"; }

Result<> WriteLine(const std::string& path, std::string_view line, int flags) {
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | flags, 0600));
  if (!file || write(file.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) return ErrnoError("write '{}'", path);
  return {};
}

}  // namespace

Result<std::unique_ptr<OciRuntime>> OciRuntime::Make(const std::string& pod_id, const std::string& bundle, const std::string& shm_path,
                                                     const pod::v1::SandboxOptions& options) {
  std::unique_ptr<OciRuntime> made(new OciRuntime);
  made->pod_id_ = pod_id;
  made->bundle_ = bundle;
  made->cgroup_path_ = CgroupBesideContainers(options, pod_id);
  made->hostname_ = options.hostname();
  oci::RuntimeProgram& runtime = made->foreign_.runtime;
  runtime.program = options.runtime().program();
  runtime.arguments.assign(options.runtime().arguments().begin(), options.runtime().arguments().end());
  runtime.root = bundle + "/runtime";
  runtime.systemd_cgroup = options.systemd_cgroup();
  made->foreign_.shm_path = shm_path;
  TRY(oci::Identify(&runtime));
  return made;
}

Result<std::unique_ptr<oci::Container>> OciRuntime::Create(oci::CreateOptions options) {
  if (options.bundle.find('\n') != std::string::npos) return MakeError(Code::kInvalidArgument, "the bundle's path has a line end");
  TRY(WriteLine(RemainsPath(bundle_), options.bundle + "\n", O_APPEND));
  foreign_.sandbox = sandbox_ ? sandbox_->cgroup() : nullptr;
  return oci::CreateForeign(foreign_, std::move(options));
}

std::string OciRuntime::SandboxConfig(const std::string& program, const std::string& pid_namespace) const {
  auto space = [](const char* type, const std::string& path) { return path.empty() ? Json{{"type", type}} : Json{{"type", type}, {"path", path}}; };
  const std::string own = fmt::format("/proc/{}/ns/", getpid());
  Json config = {
      {"ociVersion", "1.0.2"},
      {"hostname", hostname_},
      {"process", {{"args", {"/pause", "pause"}}, {"cwd", "/"}, {"env", {"PATH=/"}}, {"user", {{"uid", 65534}, {"gid", 65534}}}, {"noNewPrivileges", true}}},
      {"root", {{"path", "rootfs"}, {"readonly", true}}},
      {"annotations", {{"io.kubernetes.cri.container-type", "sandbox"}, {"io.kubernetes.cri.sandbox-id", pod_id_}}},
      {"mounts", {{{"destination", "/proc"}, {"type", "proc"}, {"source", "proc"}},
                  {{"destination", "/pause"}, {"type", "bind"}, {"source", program}, {"options", {"bind", "ro"}}}}},
      {"linux", {{"cgroupsPath", cgroup_path_},
                 {"namespaces", {space("pid", pid_namespace), space("mount", ""), space("ipc", own + "ipc"), space("uts", own + "uts"), space("network", own + "net")}}}}};
  return DumpJson(config);
}

Result<> OciRuntime::StartSandbox(const std::string& pid_namespace) {
  if (!foreign_.runtime.sandboxed) return {};
  oci::CreateOptions options;
  options.id = pod_id_;
  options.bundle = bundle_ + "/sandbox";
  options.systemd_cgroup = foreign_.runtime.systemd_cgroup;
  for (const char* name : {"", "/rootfs", "/rootfs/proc"}) {
    if (mkdir((options.bundle + name).c_str(), 0755) != 0 && errno != EEXIST) return ErrnoError("make '{}{}'", options.bundle, name);
  }
  // What is mounted on it.
  TRY(WriteLine(options.bundle + "/rootfs/pause", "", O_TRUNC));
  std::string config = SandboxConfig(TRY(sys::OwnProgram()), pid_namespace);
  TRY(WriteLine(options.bundle + "/config.json", config, O_TRUNC));
  options.spec = TRY(oci::ParseSpec(config));
  TRY(RecordCgroup(bundle_, cgroup_path_, options.systemd_cgroup));
  auto created = Create(std::move(options));
  if (!created) return std::move(created.error()).Within(fmt::format("make the sandbox of pod '{}'", pod_id_));
  sandbox_ = std::move(*created);
  auto started = sandbox_->Start();
  if (started) return {};
  (void)RemoveSandbox(kRuntimeKillMillis);
  return std::move(started.error()).Within(fmt::format("start the sandbox of pod '{}'", pod_id_));
}

void OciRuntime::KillSandbox() {
  if (sandbox_) (void)sandbox_->cgroup()->Kill(Deadline::After(kRuntimeKillMillis));
}

Result<> OciRuntime::RemoveSandbox(int64_t deadline_millis) {
  if (!sandbox_) return {};
  KillSandbox();
  TRY(sandbox_->Delete(deadline_millis));
  sandbox_.reset();
  return {};
}

void RemoveRuntimeRemains(const std::string& bundle) {
  auto text = sys::ReadFile(RemainsPath(bundle), limits::kJsonBytes);
  if (!text) return;
  for (std::string_view line : Split(*text, '\n')) {
    if (line.starts_with('/')) oci::RemoveForeignRemains(std::string(line));
  }
}

}  // namespace caisson::shim

// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "base/strings.h"
#include "oci/clone.h"
#include "ocicli/command.h"
#include "ocicli/stdio.h"
#include "sys/new_file.h"
#include "sys/path.h"

namespace caisson::ocicli {
namespace {

// "UID", "UID:GID" by number, or a name that the container's own /etc/passwd knows.
Result<> SetUser(const std::string& text, Json* process) {
  Json user = Json::object();
  size_t colon = text.find(':');
  auto uid = ParseUint64(text.substr(0, colon));
  auto gid = colon == std::string::npos ? Result<uint64_t>(0) : ParseUint64(text.substr(colon + 1));
  if (uid && gid) {
    user["uid"] = *uid;
    user["gid"] = *gid;
  } else {
    user["username"] = text;
  }
  if (process->contains("user") && (*process)["user"].contains("umask")) user["umask"] = (*process)["user"]["umask"];
  (*process)["user"] = std::move(user);
  return {};
}

void AddCapabilities(const std::vector<std::string>& names, Json* process) {
  for (const char* set : {"bounding", "effective", "permitted"}) {
    Json& all = (*process)["capabilities"][set];
    if (!all.is_array()) all = Json::array();
    for (const auto& name : names) all.push_back(name);
  }
}

// The container's own process, changed by the flags and words.
Result<std::string> ProcessOfFlags(const Flags& flags, const std::string& config_path) {
  Json config = TRY(ParseJson(TRY(sys::ReadFile(config_path, limits::kJsonBytes))));
  if (!config.is_object() || !config.contains("process") || !config["process"].is_object())
    return MakeError(Code::kDataLoss, "'{}' has no process", config_path);
  Json process = config["process"];
  process["args"] = std::vector<std::string>(flags.words().begin() + 1, flags.words().end());
  process["terminal"] = flags.On("tty");
  if (flags.Given("cwd")) process["cwd"] = flags.Text("cwd");
  if (!process.contains("env")) process["env"] = Json::array();
  for (const auto& variable : flags.List("env")) process["env"].push_back(variable);
  if (flags.Given("user")) TRY(SetUser(flags.Text("user"), &process));
  for (const auto& group : flags.List("additional-gids")) process["user"]["additionalGids"].push_back(TRY(ParseUint64(group)));
  if (flags.Given("cap")) AddCapabilities(flags.List("cap"), &process);
  if (flags.On("no-new-privs")) process["noNewPrivileges"] = true;
  if (flags.Given("apparmor")) process["apparmorProfile"] = flags.Text("apparmor");
  if (flags.Given("process-label")) process["selinuxLabel"] = flags.Text("process-label");
  return DumpJson(process);
}

Result<oci::ProcessSpec> ReadProcess(const Flags& flags, const Found& found, const oci::Spec& spec) {
  if (!flags.Given("process")) {
    if (flags.words().size() < 2) return MakeError(Code::kInvalidArgument, "no program to execute is given");
    return oci::ParseProcess(TRY(ProcessOfFlags(flags, found.folder.config_path())));
  }
  std::string path = flags.Text("process");
  auto process = oci::ParseProcess(TRY(sys::ReadFile(path, limits::kJsonBytes)));
  if (!process) return std::move(process.error()).Within(fmt::format("'{}'", path));
  if (flags.On("tty")) process->terminal = true;
  // What it does not say is as the container has it.
  const oci::ProcessSpec& own = spec.process;
  if (!process->capabilities) process->capabilities = own.capabilities;
  if (!process->oom_score_adj) process->oom_score_adj = own.oom_score_adj;
  if (process->rlimits.empty()) process->rlimits = own.rlimits;
  if (process->apparmor_profile.empty()) process->apparmor_profile = own.apparmor_profile;
  if (process->selinux_label.empty()) process->selinux_label = own.selinux_label;
  return process;
}

Result<int> Launch(const Flags& flags, const Found& found, oci::Container* container) {
  bool detached = flags.On("detach");
  oci::ExecOptions options;
  options.process = TRY(ReadProcess(flags, found, container->spec()));
  options.systemd_cgroup = found.record.systemd_cgroup;
  options.preserve_fds = TRY(PreservedDescriptors(flags, &options.process.env));
  bool terminal = options.process.terminal;
  TRY(CheckConsole(flags, terminal, detached));
  if (!terminal) options.stdio = TRY(OwnStdio());
  if (!detached) TakeTerminalSize(&options.process);
  if (!detached) HoldSignals();
  oci::Process process = TRY(container->Exec(std::move(options)));
  auto handed = [&]() -> Result<> {
    if (terminal && detached) TRY(SendConsole(flags.Text("console-socket"), process.console.get()));
    if (!flags.Given("pid-file")) return {};
    return sys::ReplaceFile(flags.Text("pid-file"), std::to_string(process.pid), 0644);
  }();
  if (!handed) {
    oci::KillAndReap(process.pidfd.get());
    return std::move(handed.error());
  }
  if (detached) return 0;
  return WaitInForeground(process);
}

}  // namespace

Result<int> Exec(const Context& context, const Flags& flags) {
  Found found = TRY(Find(context, flags.words()[0]));
  if (flags.Given("cgroup")) return MakeError(Code::kUnimplemented, "--cgroup is not supported");
  if (found.status == Status::kStopped || found.status == Status::kCreating)
    return MakeError(Code::kFailedPrecondition, "exec: container not running: '{}' is {}", found.record.id, NameOf(found.status));
  if (found.status == Status::kPaused && !flags.On("ignore-paused"))
    return MakeError(Code::kFailedPrecondition, "cannot exec in container '{}': it is paused", found.record.id);
  auto container = TRY(Open(context, found));
  auto code = Launch(flags, found, container.get());
  if (!code) return std::move(code.error()).Within("exec failed");
  return code;
}

}  // namespace caisson::ocicli

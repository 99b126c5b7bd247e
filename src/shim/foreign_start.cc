// SPDX-License-Identifier: Apache-2.0
#include "shim/foreign_start.h"

#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/bad.h"
#include "base/json.h"
#include "base/strings.h"
#include "containerd/runc_options.pb.h"
#include "containerd/runtime_options.pb.h"
#include "sys/command.h"
#include "sys/own_program.h"
#include "sys/path.h"
#include "sys/proc_text.h"

namespace caisson::shim {
namespace {

constexpr size_t kAnswerBytes = 64 << 10, kWordsBytes = 1024, kProcStatBytes = 4096;
constexpr std::string_view kUnixScheme = "unix://";
constexpr size_t kParentField = 4 - 3;  // proc(5), /proc/PID/stat, as StatFields counts

Result<std::string> SocketOfShim(const std::string& address) {
  std::string path = address.starts_with(kUnixScheme) ? address.substr(kUnixScheme.size()) : address;
  if (!path.starts_with('/')) return MakeError(Code::kUnimplemented, "its address '{}' is no path of a unix socket", address.substr(0, 256));
  if (path.size() >= limits::kPathBytes) return Bad("its address is longer than a path");
  auto control = [](char c) { return static_cast<unsigned char>(c) < ' '; };
  if (std::any_of(path.begin(), path.end(), control)) return Bad("its address has a control character");
  return path;
}

Result<ForeignAddress> ParseJsonAnswer(std::string_view answer) {
  Json parsed = TRY(ParseJson(answer, kAnswerBytes));
  auto version = parsed.find("version"), address = parsed.find("address"), protocol = parsed.find("protocol");
  if (version == parsed.end() || !version->is_number_integer()) return Bad("its answer has no version");
  if (address == parsed.end() || !address->is_string()) return Bad("its answer has no address");
  if (protocol != parsed.end() && protocol->is_string() && !protocol->get_ref<const std::string&>().empty() && *protocol != "ttrpc") {
    return MakeError(Code::kUnimplemented, "it speaks '{}', not ttrpc", protocol->get<std::string>().substr(0, 32));
  }
  const int64_t number = version->get<int64_t>();
  if (number != 2 && number != 3) return MakeError(Code::kUnimplemented, "it speaks version {} of the protocol, not 2 or 3", number);
  return ForeignAddress{static_cast<int>(number), TRY(SocketOfShim(address->get<std::string>()))};
}

Result<bool> Truth(const std::string& name, const std::string& value) {
  if (value == "true" || value == "false") return value == "true";
  return Bad("runtime option '{}' is true or false, not '{}'", name, value);
}

Result<uint32_t> Number(const std::string& name, const std::string& value) {
  auto number = ParseUint64(value);
  if (!number || *number > UINT32_MAX) return Bad("runtime option '{}' is a number, not '{}'", name, value);
  return static_cast<uint32_t>(*number);
}

Result<> SetRuncOption(const std::string& name, const std::string& value, containerd::runc::v1::Options* to) {
  if (name == "BinaryName") to->set_binary_name(value);
  else if (name == "Root") to->set_root(value);
  else if (name == "CriuImagePath") to->set_criu_image_path(value);
  else if (name == "CriuWorkPath") to->set_criu_work_path(value);
  else if (name == "NoPivotRoot") to->set_no_pivot_root(TRY(Truth(name, value)));
  else if (name == "NoNewKeyring") to->set_no_new_keyring(TRY(Truth(name, value)));
  else if (name == "SystemdCgroup") to->set_systemd_cgroup(TRY(Truth(name, value)));
  else if (name == "IoUid") to->set_io_uid(TRY(Number(name, value)));
  else if (name == "IoGid") to->set_io_gid(TRY(Number(name, value)));
  else return Bad("runtime option '{}' is none of BinaryName, Root, CriuImagePath, CriuWorkPath, NoPivotRoot, NoNewKeyring, SystemdCgroup, IoUid, IoGid", name);
  return {};
}

Result<wkt::Any> RuncOptions(const pod::v1::ForeignRuntime& runtime, bool systemd_cgroup) {
  containerd::runc::v1::Options options;
  options.set_systemd_cgroup(systemd_cgroup);
  for (const auto& [name, value] : runtime.options()) TRY(SetRuncOption(name, value, &options));
  if (options.systemd_cgroup() != systemd_cgroup) {
    return Bad("runtime option 'SystemdCgroup' is {}, but cgroup_driver is {}", options.systemd_cgroup(), systemd_cgroup ? "systemd" : "cgroupfs");
  }
  wkt::Any any;
  if (options.ByteSizeLong() == 0) return any;
  any.set_type_url(options.GetTypeName());
  any.set_value(options.SerializeAsString());
  return any;
}

std::vector<std::string> ShimEnvironment(const ForeignCommand& command) {
  std::vector<std::string> environment = {"TTRPC_ADDRESS=" + command.events, "GRPC_ADDRESS=" + command.events, fmt::format("NAMESPACE={}", kForeignNamespace),
                                          "MAX_SHIM_VERSION=3", "GOMAXPROCS=4"};
  for (const char* name : {"PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS"}) {
    if (const char* value = getenv(name)) environment.push_back(fmt::format("{}={}", name, value));
  }
  return environment;
}

std::string WordsOfShim(const sys::CommandOutput& output) {
  std::string_view text = Trim(output.err.empty() ? output.out : output.err);
  return std::string(text.substr(text.size() - std::min(text.size(), kWordsBytes)));
}

Result<std::string> RunShimAction(const ForeignCommand& command, const char* action, std::string_view input, int64_t deadline_millis) {
  std::string own = TRY(sys::OwnProgram()), stdin_text(input);
  sys::Command run;
  run.argv = {command.program, "-namespace", kForeignNamespace, "-address", command.events, "-publish-binary", own, "-id", command.id};
  if (std::string_view(action) == "delete") run.argv.insert(run.argv.end(), {"-bundle", command.bundle});
  run.argv.emplace_back(action);
  run.environment = ShimEnvironment(command);
  run.directory = command.bundle;
  run.input = stdin_text;
  run.max_out_bytes = kAnswerBytes;
  auto output = TRY(sys::RunCommand(run, Deadline::After(deadline_millis)));
  if (output.signal != 0) return MakeError(Code::kInternal, "'{} {}' was killed by signal {}: {}", command.program, action, output.signal, WordsOfShim(output));
  if (output.exit_code != 0) {
    return MakeError(Code::kInternal, "'{} {}' ended with status {}: {}", command.program, action, output.exit_code, WordsOfShim(output));
  }
  return std::move(output.out);
}

}  // namespace

Result<ForeignAddress> ParseShimAnswer(std::string_view answer) {
  std::string_view text = Trim(answer);
  if (text.empty()) return Bad("it answers nothing");
  if (text.front() == '{') return ParseJsonAnswer(text);
  return ForeignAddress{2, TRY(SocketOfShim(std::string(text)))};
}

Result<wkt::Any> ShimOptionsOf(const pod::v1::ForeignRuntime& runtime, bool systemd_cgroup) {
  const auto parts = Split(runtime.type(), '.');
  const std::string_view kind = parts.size() < 2 ? "" : parts[parts.size() - 2];
  if (kind == "runc" || kind == "caisson") return RuncOptions(runtime, systemd_cgroup);
  runtimeoptions::v1::Options options;
  for (const auto& [name, value] : runtime.options()) {
    if (name == "TypeUrl") options.set_type_url(value);
    else if (name == "ConfigPath") options.set_config_path(value);
    else if (name == "ConfigBody") options.set_config_body(value);
    else return Bad("runtime option '{}' is none of TypeUrl, ConfigPath, ConfigBody", name);
  }
  wkt::Any any;
  if (runtime.options().empty()) return any;
  any.set_type_url(options.GetTypeName());
  any.set_value(options.SerializeAsString());
  return any;
}

Result<ForeignAddress> StartForeignShim(const ForeignCommand& command, const wkt::Any& options, int64_t deadline_millis) {
  std::string input = options.type_url().empty() ? "" : options.SerializeAsString();
  auto address = ParseShimAnswer(TRY(RunShimAction(command, "start", input, deadline_millis)));
  if (!address) return std::move(address.error()).Within(fmt::format("'{} start'", command.program));
  return address;
}

Result<> DeleteForeignContainer(const ForeignCommand& command, int64_t deadline_millis) {
  TRY(RunShimAction(command, "delete", "", deadline_millis));
  return {};
}

Result<std::vector<int>> OwnChildren() {
  std::unique_ptr<DIR, int (*)(DIR*)> proc(opendir("/proc"), &closedir);
  if (!proc) return ErrnoError("open '/proc'");
  std::vector<int> children;
  const auto self = static_cast<uint64_t>(getpid());
  while (const dirent* entry = readdir(proc.get())) {
    auto pid = ParseUint64(entry->d_name);
    if (!pid || *pid > INT_MAX) continue;
    auto stat = sys::ReadFile(fmt::format("/proc/{}/stat", *pid), kProcStatBytes);
    if (!stat) continue;  // gone
    auto fields = sys::StatFields(*stat);
    if (fields.size() > kParentField && ParseUint64(fields[kParentField]).value_or(0) == self) children.push_back(static_cast<int>(*pid));
  }
  return children;
}

}  // namespace caisson::shim

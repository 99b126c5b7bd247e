// SPDX-License-Identifier: Apache-2.0
#include "cri/checkpoint_support.h"

#include <unistd.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/id.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/strings.h"
#include "cri/pod_teardown.h"
#include "cri/shim_client.h"
#include "sys/cgroup.h"
#include "sys/path.h"

namespace caisson::cri {
namespace {

constexpr int64_t kCriuProbeMillis = 20'000;
constexpr size_t kReasonBytes = 512;
constexpr size_t kReasonLines = 3;

}  // namespace

std::string CriuReason(std::string_view output) {
  std::vector<std::string> errors;
  std::string last;
  for (std::string_view line : Split(output, '\n')) {
    line = Trim(line);
    if (line.empty()) continue;
    // The companion's own word: msg="…"
    if (size_t said = line.find("msg="); said != std::string_view::npos) line = line.substr(said + 4);
    last = line;
    size_t words = line.find("): ");
    if (line.starts_with("Error (") && words != std::string_view::npos) errors.emplace_back(line.substr(words + 3));
  }
  if (errors.empty()) return last.substr(0, kReasonBytes);
  // The first is the cause, what follows its consequences.
  errors.resize(std::min(errors.size(), kReasonLines));
  return "criu check: " + Join(errors, "; ").substr(0, kReasonBytes);
}

Result<> CheckpointSupport::Probe() {
  if (!sys::IsPureV2()) return MakeError(Code::kFailedPrecondition, "checkpoints need a host with cgroup v2");
  std::string program = TRY(FindCompanion(config_, config_.default_handler));
  std::string log_path = fmt::format("{}/criu-{}.log", config_.state, NewId());
  std::vector<std::string> arguments = {"criu-check"};
  if (!config_.checkpoint.criu.empty()) arguments.insert(arguments.end(), {"--criu", config_.checkpoint.criu});
  auto ran = RunCompanionCommand(program, arguments, log_path, kCriuProbeMillis);
  auto text = sys::ReadFile(log_path, limits::kCriuLogBytes);
  unlink(log_path.c_str());
  if (ran) return {};
  std::string reason = text ? CriuReason(*text) : "";
  return MakeError(Code::kFailedPrecondition, "checkpoints do not work on this host: {}", reason.empty() ? ran.error().message : reason);
}

Result<> CheckpointSupport::Check() {
  std::lock_guard lock(mutex_);
  int64_t now = clock_();
  if (!known_ || (!*known_ && now - asked_at_ >= kAgainNanos)) {
    known_ = Probe();
    asked_at_ = now;
  }
  return *known_;
}

Result<> CheckpointSupport::CheckRestore() {
  if (!config_.checkpoint.restore) {
    return MakeError(Code::kFailedPrecondition, "creating containers from checkpoints is switched off (checkpoint.restore in the configuration)");
  }
  return Check();
}

std::string CheckpointSupport::Describe() {
  auto word = [](const Result<>& result) { return result ? std::string() : result.error().message; };
  return DumpJson({{"checkpoint", word(Check())}, {"restore", word(CheckRestore())}});
}

}  // namespace caisson::cri

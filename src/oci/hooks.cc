// SPDX-License-Identifier: Apache-2.0
#include "oci/hooks.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "oci/clone.h"

namespace caisson::oci {
namespace {

constexpr int64_t kDefaultTimeoutSeconds = 60;

[[noreturn]] void RunHook(const Hook& hook, int stdin_fd) {
  setsid();
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (dup2(stdin_fd, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0) _exit(126);
  std::vector<char*> args, env;
  for (const auto& word : hook.args) args.push_back(const_cast<char*>(word.c_str()));
  if (args.empty()) args.push_back(const_cast<char*>(hook.path.c_str()));
  for (const auto& variable : hook.env) env.push_back(const_cast<char*>(variable.c_str()));
  args.push_back(nullptr);
  env.push_back(nullptr);
  execve(hook.path.c_str(), args.data(), env.data());
  _exit(127);
}

}  // namespace

Result<> RunHooks(const std::vector<Hook>& hooks, const std::string& state_json) {
  for (const auto& hook : hooks) {
    UniqueFd state(memfd_create("state", MFD_CLOEXEC));
    if (!state || write(state.get(), state_json.data(), state_json.size()) < 0 ||
        lseek(state.get(), 0, SEEK_SET) != 0) {
      return ErrnoError("hook '{}': prepare its stdin", hook.path);
    }
    auto cloned = TRY(Clone(0, -1));
    if (cloned.pid == 0) RunHook(hook, state.get());
    int64_t seconds = hook.timeout_seconds > 0 ? hook.timeout_seconds : kDefaultTimeoutSeconds;
    auto code = Reap(cloned.pidfd.get(), seconds * 1000);
    if (!code) {
      kill(-cloned.pid, SIGKILL);  // its session, before its number can be anyone else's: it is not reaped yet
      KillAndReap(cloned.pidfd.get());
      return MakeError(Code::kDeadlineExceeded, "hook '{}' did not end within {} s and was killed", hook.path, seconds);
    }
    if (*code != 0) return MakeError(Code::kFailedPrecondition, "hook '{}' ended with {}", hook.path, *code);
  }
  return {};
}

std::string HookState(const CreateOptions& container, const char* status, int pid) {
  Json state = {{"ociVersion", "1.2.0"},      {"id", container.id},
                {"status", status},           {"pid", pid},
                {"bundle", container.bundle}, {"annotations", container.spec.annotations}};
  return DumpJson(state);
}

}  // namespace caisson::oci

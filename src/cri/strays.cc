// SPDX-License-Identifier: Apache-2.0
#include "cri/strays.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>

#include "base/clock.h"
#include "base/log.h"
#include "base/strings.h"

namespace caisson::cri {
namespace {

constexpr size_t kReadBytes = 64 << 10;  // of a process's arguments or environment
constexpr int64_t kKillMillis = 5'000;

std::string ReadProc(int pid, const char* name) {
  UniqueFd fd(open(fmt::format("/proc/{}/{}", pid, name).c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!fd) return text;
  char buffer[4096];
  ssize_t n;
  while (text.size() < kReadBytes && (n = read(fd.get(), buffer, sizeof buffer)) > 0) {
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

// A pidfd is readable once its process has ended.
bool WaitEnd(const UniqueFd& pidfd, int64_t millis) {
  pollfd watched = {pidfd.get(), POLLIN, 0};
  Deadline deadline = Deadline::After(millis);
  int n;
  while ((n = poll(&watched, 1, deadline.RemainingMillis())) < 0 && errno == EINTR) {
  }
  return n == 1;
}

}  // namespace

std::string_view PodOfCompanion(std::string_view arguments) {
  auto words = Split(arguments, '\0');
  if (words.size() < 4 || words[1] != "serve" || words[2] != "--id") return {};
  return words[3];
}

std::string_view PodOfPlugin(std::string_view environment) {
  constexpr std::string_view kName = "CNI_CONTAINERID=";
  for (std::string_view variable : Split(environment, '\0')) {
    if (variable.starts_with(kName)) return variable.substr(kName.size());
  }
  return {};
}

std::vector<Stray> FindStrays(const std::set<std::string>& ids) {
  std::vector<Stray> strays;
  if (ids.empty()) return strays;
  std::error_code error;
  for (std::filesystem::directory_iterator at("/proc", error), end; !error && at != end; at.increment(error)) {
    auto pid = ParseInt64(at->path().filename().string());
    if (!pid || *pid <= 1 || *pid == getpid()) continue;
    Stray stray;
    stray.pid = static_cast<int>(*pid);
    // First: what is read afterwards is of this process and no later one of the same number.
    stray.pidfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, stray.pid, 0)));
    if (!stray.pidfd) continue;
    stray.pod_id = std::string(PodOfCompanion(ReadProc(stray.pid, "cmdline")));
    if (stray.pod_id.empty()) {
      stray.kind = Stray::Kind::kPlugin;
      stray.pod_id = std::string(PodOfPlugin(ReadProc(stray.pid, "environ")));
    }
    if (ids.contains(stray.pod_id)) strays.push_back(std::move(stray));
  }
  return strays;
}

void KillStray(const Stray& stray) {
  syscall(SYS_pidfd_send_signal, stray.pidfd.get(), SIGKILL, nullptr, 0);
  if (!WaitEnd(stray.pidfd, kKillMillis)) log::Error("process {} of pod {} does not die", stray.pid, stray.pod_id);
}

void AwaitStray(const Stray& stray, int64_t millis) {
  if (WaitEnd(stray.pidfd, millis)) return;
  log::Warn("a CNI plugin (pid {}) of pod {} is killed: it has not ended by itself", stray.pid, stray.pod_id);
  KillStray(stray);
}

}  // namespace caisson::cri

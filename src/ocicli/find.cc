// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <unistd.h>

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/limits.h"
#include "base/strings.h"
#include "ocicli/command.h"
#include "sys/path.h"

namespace caisson::ocicli {
namespace {

// signal(7), by number.
constexpr std::array<const char*, 32> kSignals = {
    "",     "HUP",  "INT",  "QUIT", "ILL",    "TRAP", "ABRT", "BUS",  "FPE",  "KILL", "USR1",   "SEGV",  "USR2",  "PIPE",  "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",  "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR",  "SYS"};

}  // namespace

Result<Found> Find(const Context& context, const std::string& id) {
  Folder folder = context.FolderOf(id);
  Record record = TRY(folder.Read());
  Status status = TRY(StatusOf(folder, record));
  return Found{std::move(folder), std::move(record), status};
}

Result<std::unique_ptr<oci::Container>> Open(const Context& context, const Found& found, bool gate, oci::Hooks* hooks) {
  std::string text = TRY(sys::ReadFile(found.folder.config_path(), limits::kJsonBytes));
  oci::OpenOptions options;
  options.id = found.record.id;
  options.bundle = found.record.bundle;
  options.spec = TRY(oci::ParseSpec(text));
  options.spec.cgroups_path = found.record.cgroup;
  if (hooks != nullptr) std::swap(*hooks, options.spec.hooks);
  options.pidfd = OpenProcess(found.record.init);
  options.pid = options.pidfd ? found.record.init.pid : 0;
  options.systemd_cgroup = found.record.systemd_cgroup;
  options.rootless = found.record.rootless;
  options.seccomp_cache_dir = context.seccomp_cache();
  if (gate) options.gate = TRY(found.folder.ConnectToGate());
  return oci::Container::Open(std::move(options));
}

Result<int> SignalNumber(const std::string& text) {
  auto wrong = [&] { return MakeError(Code::kInvalidArgument, "unknown signal '{}'", text.substr(0, 32)); };
  if (auto number = ParseInt64(text)) {
    if (*number < 1 || *number > 64) return wrong();
    return static_cast<int>(*number);
  }
  std::string name = text;
  for (char& letter : name) letter = static_cast<char>(letter >= 'a' && letter <= 'z' ? letter - 'a' + 'A' : letter);
  if (name.starts_with("SIG")) name.erase(0, 3);
  for (size_t number = 1; number < kSignals.size(); ++number) {
    if (name == kSignals[number]) return static_cast<int>(number);
  }
  if (name == "IOT") return SIGABRT;
  if (name == "POLL") return SIGPOLL;
  if (name == "CLD") return SIGCHLD;
  // As signal(7) counts them for programs: the C library keeps two for itself.
  bool low = name.starts_with("RTMIN"), high = name.starts_with("RTMAX");
  if (!low && !high) return wrong();
  std::string offset = name.substr(5);
  if (offset.empty()) return low ? 34 : 64;
  if (offset[0] != (low ? '+' : '-')) return wrong();
  auto distance = ParseUint64(offset.substr(1));
  if (!distance || *distance > 30) return wrong();
  return low ? 34 + static_cast<int>(*distance) : 64 - static_cast<int>(*distance);
}

Result<> Print(std::string_view text) {
  while (!text.empty()) {
    ssize_t wrote = write(1, text.data(), text.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return ErrnoError("write to stdout");
    text.remove_prefix(static_cast<size_t>(wrote));
  }
  return {};
}

std::string Indented(const Json& value) { return value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

}  // namespace caisson::ocicli

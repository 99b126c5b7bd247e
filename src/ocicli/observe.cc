// SPDX-License-Identifier: Apache-2.0
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/strings.h"
#include "ocicli/command.h"
#include "ocicli/stats.h"
#include "sys/command.h"

namespace caisson::ocicli {
namespace {

constexpr int kOomLookMillis = 5;
constexpr int64_t kOomSettleMillis = 5'000;

std::string TableOf(const std::vector<Json>& states) {
  std::vector<std::vector<std::string>> rows = {{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}};
  for (const Json& one : states) {
    rows.push_back({one["id"].get<std::string>(), fmt::format("{}", one["pid"].get<int>()), one["status"].get<std::string>(),
                    one["bundle"].get<std::string>(), one["created"].get<std::string>(), one["owner"].get<std::string>()});
  }
  std::vector<size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size() + 3);
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) text += i + 1 == row.size() ? row[i] : fmt::format("{:<{}}", row[i], widths[i]);
    text += "\n";
  }
  return text;
}

// The lines of the host's ps(1) about these processes.
Result<std::string> PsTable(const std::vector<int>& pids, const std::vector<std::string>& given) {
  sys::Command command;
  command.argv = {"/bin/ps"};
  if (given.empty()) command.argv.push_back("-ef");
  for (const auto& word : given) command.argv.push_back(word);
  command.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"};
  command.max_out_bytes = size_t{16} << 20;
  auto output = TRY(sys::RunCommand(command, Deadline::After(kDeadlineMillis)));
  if (output.exit_code != 0) return MakeError(Code::kFailedPrecondition, "ps ended with {}: {}", output.exit_code, Trim(output.err));
  std::vector<std::string_view> lines = Split(output.out, '\n');
  auto words = [](std::string_view line) {
    std::vector<std::string_view> all = Split(line, ' ');
    std::erase(all, std::string_view());
    return all;
  };
  auto titles = words(lines[0]);
  size_t column = static_cast<size_t>(std::find(titles.begin(), titles.end(), "PID") - titles.begin());
  if (column == titles.size()) return MakeError(Code::kInvalidArgument, "these options of ps show no column PID");
  std::string text = std::string(lines[0]) + "\n";
  for (size_t i = 1; i < lines.size(); ++i) {
    auto fields = words(lines[i]);
    if (fields.size() <= column) continue;
    auto pid = ParseInt64(fields[column]);
    if (pid && std::find(pids.begin(), pids.end(), static_cast<int>(*pid)) != pids.end()) text += std::string(lines[i]) + "\n";
  }
  return text;
}

Result<> PrintEvent(const std::string& id, const char* type, const Json* data) {
  Json event = {{"type", type}, {"id", id}};
  if (data != nullptr) event["data"] = *data;
  return Print(DumpJson(event) + "\n");
}

// Tells of each kill once. The kernel says that memory is out before it kills somebody, and counts that later.
class OomTeller {
 public:
  OomTeller(std::string id, oci::Cgroup* cgroup, uint64_t kills) : id_(std::move(id)), cgroup_(cgroup), kills_(kills) {}
  void OnNotice() { until_ = Deadline::After(kOomSettleMillis), pending_ = true; }
  // As long as a notice is without its kill it is looked for soon.
  int WaitMillis(int millis) const { return pending_ ? std::min(millis, kOomLookMillis) : millis; }
  Result<> Tell() {
    if (!pending_) return {};
    auto now = cgroup_->OomKills();
    if (now && *now != kills_) {
      TRY(PrintEvent(id_, "oom", nullptr));
      kills_ = *now;
      pending_ = false;
    }
    if (!now || until_.Passed()) pending_ = false;
    return {};
  }

 private:
  const std::string id_;
  oci::Cgroup* cgroup_;
  uint64_t kills_;
  bool pending_ = false;
  Deadline until_ = Deadline::After(0);
};

// Every `interval_millis`, and whenever processes are killed for want of memory, until the container ends.
Result<> Follow(const Found& found, oci::Cgroup* cgroup, int64_t interval_millis) {
  UniqueFd pidfd = OpenProcess(found.record.init);
  auto oom = cgroup->OomEvents();
  OomTeller teller(found.record.id, cgroup, oom ? TRY(cgroup->OomKills()) : 0);
  Deadline next = Deadline::After(interval_millis);
  while (pidfd) {
    pollfd polled[] = {{pidfd.get(), POLLIN, 0}, {oom ? oom->get() : -1, POLLIN, 0}};
    int ready = poll(polled, 2, teller.WaitMillis(next.RemainingMillis()));
    if (ready < 0 && errno != EINTR) return ErrnoError("wait for events of container '{}'", found.record.id);
    if (polled[1].revents != 0) {
      char bytes[4096];
      (void)!read(oom->get(), bytes, sizeof bytes);
      teller.OnNotice();
    }
    TRY(teller.Tell());
    if (polled[0].revents != 0) return {};
    if (!next.Passed()) continue;
    next = Deadline::After(interval_millis);
    auto stats = cgroup->Stats(oci::StatsPart::kAll);
    if (!stats) return {};  // it has ended and gone
    Json data = StatsJson(*stats);
    TRY(PrintEvent(found.record.id, "stats", &data));
  }
  return {};
}

}  // namespace

Result<int> State(const Context& context, const Flags& flags) {
  Found found = TRY(Find(context, flags.words()[0]));
  TRY(Print(Indented(StateJson(found.record, found.status))));
  return 0;
}

Result<int> List(const Context& context, const Flags& flags) {
  std::vector<Json> states;
  for (const std::string& id : TRY(ListFolders(context.root))) {
    auto found = Find(context, id);
    if (!found && found.error().code == Code::kNotFound) continue;  // deleted just now
    if (!found) {
      context.report.Warn(found.error().message);
      continue;
    }
    states.push_back(StateJson(found->record, found->status));
  }
  std::string format = flags.Given("format") ? flags.Text("format") : "table";
  if (flags.On("quiet")) {
    for (const Json& one : states) TRY(Print(one["id"].get<std::string>() + "\n"));
  } else if (format == "json") {
    TRY(Print(DumpJson(Json(states)) + "\n"));
  } else if (format == "table") {
    TRY(Print(TableOf(states)));
  } else {
    return MakeError(Code::kInvalidArgument, "--format '{}' is neither table nor json", format.substr(0, 64));
  }
  return 0;
}

Result<int> Ps(const Context& context, const Flags& flags) {
  Found found = TRY(Find(context, flags.words()[0]));
  std::string format = flags.Given("format") ? flags.Text("format") : "table";
  if (format != "json" && format != "table") return MakeError(Code::kInvalidArgument, "--format '{}' is neither table nor json", format.substr(0, 64));
  auto pids = TRY(TRY(OpenCgroup(found.record))->Pids());
  if (format == "json") {
    TRY(Print(DumpJson(Json(pids)) + "\n"));
  } else {
    TRY(Print(TRY(PsTable(pids, {flags.words().begin() + 1, flags.words().end()}))));
  }
  return 0;
}

Result<int> Events(const Context& context, const Flags& flags) {
  Found found = TRY(Find(context, flags.words()[0]));
  int64_t interval = TRY(ParseDuration(flags.Given("interval") ? flags.Text("interval") : "5s"));
  if (interval < 1) return MakeError(Code::kInvalidArgument, "--interval is less than 1ms");
  if (found.status == Status::kStopped) return MakeError(Code::kFailedPrecondition, "container not running: '{}' is stopped", found.record.id);
  auto cgroup = TRY(OpenCgroup(found.record));
  if (flags.On("stats")) {
    Json data = StatsJson(TRY(cgroup->Stats(oci::StatsPart::kAll)));
    TRY(PrintEvent(found.record.id, "stats", &data));
    return 0;
  }
  TRY(Follow(found, cgroup.get(), interval));
  return 0;
}

}  // namespace caisson::ocicli

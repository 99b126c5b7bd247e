// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <thread>

#include "base/clock.h"
#include "cli/command.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

namespace {

using Listed = runtime::v1::ListContainerStatsResponse;

Result<Listed> List(Client& client) {
  return client.Call(client.runtime(), &RuntimeService::Stub::ListContainerStats, runtime::v1::ListContainerStatsRequest());
}

// Per cent of one CPU between two samples, "-" where there is only one.
std::string CpuPercent(const runtime::v1::ContainerStats* before, const runtime::v1::ContainerStats& now) {
  if (before == nullptr || now.cpu().timestamp() <= before->cpu().timestamp()) return "-";
  double used = static_cast<double>(now.cpu().usage_core_nano_seconds().value()) -
                static_cast<double>(before->cpu().usage_core_nano_seconds().value());
  return fmt::format("{:.1f}", 100 * used / static_cast<double>(now.cpu().timestamp() - before->cpu().timestamp()));
}

Result<> Stats(Command& command) {
  Client& client = command.client();
  auto first = TRY(List(client));
  if (command.json()) {
    Print(ToJson(first));
    return {};
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // what the CPU figure is measured over
  auto second = TRY(List(client));
  std::map<std::string, const runtime::v1::ContainerStats*> before;
  for (const auto& stats : first.stats()) before[stats.attributes().id()] = &stats;
  std::vector<std::vector<std::string>> rows = {{"CONTAINER", "NAME", "CPU %", "CPU TIME", "MEMORY", "DISK", "INODES"}};
  for (const auto& stats : second.stats()) {
    auto found = before.find(stats.attributes().id());
    rows.push_back({ShortId(stats.attributes().id()), stats.attributes().metadata().name(),
                    CpuPercent(found == before.end() ? nullptr : found->second, stats),
                    FormatDuration(static_cast<int64_t>(stats.cpu().usage_core_nano_seconds().value())),
                    FormatBytes(stats.memory().working_set_bytes().value()),
                    FormatBytes(stats.writable_layer().used_bytes().value()),
                    fmt::format("{}", stats.writable_layer().inodes_used().value())});
  }
  Print(FormatTable(rows));
  return {};
}

}  // namespace

void AddStats(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("stats", "CPU, memory and disk of running containers");
  command.AddOutput(sub);
  sub->callback([&command] { command.Run([&] { return Stats(command); }); });
}

}  // namespace caisson::cli

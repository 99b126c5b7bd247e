// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <memory>

#include "cli/command.h"
#include "cli/migration.h"
#include "sys/new_file.h"

namespace caisson::cli {
namespace {

struct MigrateOptions {
  std::string from, config, output;
};

Result<> Migrate(const MigrateOptions& options) {
  bool crio = options.from == "crio";
  std::string path = !options.config.empty() ? options.config : crio ? "/etc/crio/crio.conf" : "/etc/containerd/config.toml";
  auto settings = TRY(ReadSettings(path));
  Migration migration = crio ? MigrateCrio(settings) : MigrateContainerd(settings);
  if (options.output.empty()) {
    Print(migration.toml);
  } else {
    TRY(sys::WriteNewFile(options.output, migration.toml, 0644));
  }
  std::string report;
  if (!migration.notes.empty()) report = fmt::format("{} settings of '{}' have no counterpart:\n", migration.notes.size(), path);
  for (const std::string& note : migration.notes) report += "  " + Printable(note) + "\n";
  if (!options.output.empty()) report += fmt::format("Check it: caissond --check-config --config {}\n", options.output);
  std::fputs(report.c_str(), stderr);
  return {};
}

}  // namespace

void AddMigrate(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("migrate", "Write caissond's configuration from that of another runtime; what has no counterpart is said");
  auto options = std::make_shared<MigrateOptions>();
  sub->add_option("--from", options->from, "Whose configuration")->required()->check(CLI::IsMember({"containerd", "crio"}));
  sub->add_option("--config", options->config, "Its file (default: /etc/containerd/config.toml, /etc/crio/crio.conf), with what it imports and PATH.d");
  sub->add_option("--output", options->output, "A new file to write (default: stdout)");
  sub->callback([&command, options] { command.Run([&] { return Migrate(*options); }); });
}

}  // namespace caisson::cli

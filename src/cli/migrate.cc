// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "base/unique_fd.h"
#include "cli/command.h"
#include "cli/migration.h"

namespace caisson::cli {
namespace {

struct MigrateOptions {
  std::string from, config, output;
};

Result<> WriteNew(const std::string& path, const std::string& text) {
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!file) return ErrnoError("make '{}'", path);
  if (write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) return {};
  Error error = ErrnoError("write '{}'", path);
  unlink(path.c_str());
  return error;
}

Result<> Migrate(const MigrateOptions& options) {
  bool crio = options.from == "crio";
  std::string path = !options.config.empty() ? options.config : crio ? "/etc/crio/crio.conf" : "/etc/containerd/config.toml";
  auto settings = TRY(ReadSettings(path));
  Migration migration = crio ? MigrateCrio(settings) : MigrateContainerd(settings);
  if (options.output.empty()) {
    Print(migration.toml);
  } else {
    TRY(WriteNew(options.output, migration.toml));
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

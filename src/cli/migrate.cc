// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/scope_exit.h"
#include "base/strings.h"
#include "cli/command.h"
#include "cli/migration.h"
#include "sys/new_file.h"
#include "sys/path.h"

namespace caisson::cli {
namespace {

struct MigrateOptions {
  std::string from, config, output, certs_dir;
  std::string containers = "/etc/containers";
};

std::string HostsFile(const std::string& certs_dir, const std::string& registry) { return fmt::format("{}/{}/hosts.toml", certs_dir, registry); }

void MakeFolder(const std::string& path, Rollback* undo) {
  if (mkdir(path.c_str(), 0755) == 0) undo->Add([path] { rmdir(path.c_str()); });
}

Result<> MakeFile(const std::string& path, const std::string& text, Rollback* undo) {
  TRY(sys::WriteNewFile(path, text, 0644));
  undo->Add([path] { unlink(path.c_str()); });
  return {};
}

// All of it or nothing.
Result<> Write(const Migration& migration, const MigrateOptions& options) {
  Rollback undo;
  TRY(MakeFile(options.output, migration.toml, &undo));
  if (!migration.registries.empty()) MakeFolder(options.certs_dir, &undo);
  for (const auto& [name, registry] : migration.registries) {
    std::string path = HostsFile(options.certs_dir, name);
    MakeFolder(sys::SplitPath(path).first, &undo);
    TRY(MakeFile(path, HostsToml(registry), &undo));
  }
  undo.Commit();
  return {};
}

// One text, which is TOML: the files of registries are comments.
void PrintAll(const Migration& migration, const MigrateOptions& options) {
  Print(migration.toml);
  for (const auto& [name, registry] : migration.registries) {
    const std::string hosts = HostsToml(registry);
    std::string text = fmt::format("\n# {}:\n", HostsFile(options.certs_dir, name));
    for (std::string_view line : Split(hosts, '\n')) text += line.empty() ? "#\n" : fmt::format("#   {}\n", line);
    Print(text);
  }
}

Result<Migration> MigrationFrom(const std::string& path, const MigrateOptions& options) {
  auto settings = TRY(ReadSettings(path));
  if (options.from == "containerd") return MigrateContainerd(settings, options.certs_dir);
  std::vector<std::string> notes;
  Registries registries = TRY(ReadContainersRegistries(options.containers + "/registries.conf", &notes));
  AddCertificates(options.containers + "/certs.d", &registries);
  Migration migration = MigrateCrio(settings, std::move(registries), options.certs_dir);
  migration.notes.insert(migration.notes.end(), notes.begin(), notes.end());
  return migration;
}

Result<> Migrate(MigrateOptions options) {
  std::string path = !options.config.empty() ? options.config : options.from == "crio" ? "/etc/crio/crio.conf" : "/etc/containerd/config.toml";
  if (options.certs_dir.empty()) options.certs_dir = options.output.empty() ? "/etc/caisson/certs.d" : sys::SplitPath(options.output).first + "/certs.d";
  options.certs_dir = std::filesystem::absolute(options.certs_dir);
  Migration migration = TRY(MigrationFrom(path, options));
  if (options.output.empty()) {
    PrintAll(migration, options);
  } else {
    TRY(Write(migration, options));
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
  sub->add_option("--certs-dir", options->certs_dir, "A folder for the hosts.toml of their registries (default: certs.d beside the file that is written)");
  sub->add_option("--containers", options->containers, "CRI-O's folder of registries.conf and certs.d")->capture_default_str();
  sub->callback([&command, options] { command.Run([&] { return Migrate(*options); }); });
}

}  // namespace caisson::cli

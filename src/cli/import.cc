// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <memory>

#include "cli/command.h"

namespace caisson::cli {
namespace {

struct ImportOptions {
  std::string path, name;
};

Result<> Import(Command& command, const ImportOptions& options) {
  Client& client = command.client();
  std::error_code failed;
  std::string path = std::filesystem::absolute(options.path, failed);
  if (failed || !std::filesystem::exists(path)) return MakeError(Code::kNotFound, "'{}' is not there", options.path);
  control::v1::ImportRequest request;
  request.set_path(path);
  request.set_name(options.name);
  auto reply = TRY(client.Call(client.control(), &control::v1::Control::Stub::Import, request, 0));
  for (const auto& image : reply.images()) {
    if (image.tags().empty()) Print(image.id() + "\n");
    for (const auto& tag : image.tags()) Print(fmt::format("{}  {}\n", Printable(tag), ShortId(image.id())));
  }
  return {};
}

}  // namespace

void AddImport(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("import", "Import images from a docker-archive, an oci-archive or an OCI layout folder");
  auto options = std::make_shared<ImportOptions>();
  sub->add_option("PATH", options->path, "A file or folder on the daemon's host")->required();
  sub->add_option("--name", options->name, "Name for an image that the archive does not name");
  sub->callback([&command, options] { command.Run([&] { return Import(command, *options); }); });
}

}  // namespace caisson::cli

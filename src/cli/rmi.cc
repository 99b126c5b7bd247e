// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "cli/command.h"

namespace caisson::cli {

using runtime::v1::ImageService;

namespace {

Result<> RemoveImage(Client& client, const std::string& name) {
  runtime::v1::ImageStatusRequest find;
  find.mutable_image()->set_image(name);
  auto found = TRY(client.Call(client.images(), &ImageService::Stub::ImageStatus, find));
  if (!found.has_image() || found.image().id().empty()) {
    return MakeError(Code::kNotFound, "no image '{}' (see `caisson images`)", name);
  }
  runtime::v1::RemoveImageRequest request;
  request.mutable_image()->set_image(name);
  TRY(client.Call(client.images(), &ImageService::Stub::RemoveImage, request));
  return {};
}

}  // namespace

void AddRmi(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("rmi", "Remove images; what containers use of one stays until they go");
  auto names = std::make_shared<std::vector<std::string>>();
  sub->add_option("IMAGE", *names, "References, ids or prefixes of ids")->required();
  sub->callback([&command, names] {
    for (const auto& name : *names) command.Run([&] { return RemoveImage(command.client(), name); });
  });
}

}  // namespace caisson::cli

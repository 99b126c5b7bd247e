// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "cli/command.h"

namespace caisson::cli {

using runtime::v1::ImageService;
using runtime::v1::RuntimeService;

namespace {

// A pod, a container or an image, whichever `name` is first, as JSON with the daemon's verbose information.
Result<std::string> Inspect(Client& client, const std::string& name) {
  if (auto pod = FindPod(client, name)) {
    runtime::v1::PodSandboxStatusRequest request;
    request.set_pod_sandbox_id(pod->id());
    request.set_verbose(true);
    return ToJson(TRY(client.Call(client.runtime(), &RuntimeService::Stub::PodSandboxStatus, request)));
  }
  if (auto container = FindContainer(client, name)) {
    runtime::v1::ContainerStatusRequest request;
    request.set_container_id(container->id());
    request.set_verbose(true);
    return ToJson(TRY(client.Call(client.runtime(), &RuntimeService::Stub::ContainerStatus, request)));
  }
  runtime::v1::ImageStatusRequest request;
  request.mutable_image()->set_image(name);
  request.set_verbose(true);
  auto image = client.Call(client.images(), &ImageService::Stub::ImageStatus, request);
  if (image && image->has_image() && !image->image().id().empty()) return ToJson(*image);
  if (!image && image.error().code == Code::kUnavailable) return std::move(image.error());
  return MakeError(Code::kNotFound, "no pod, container or image '{}'", name);
}

}  // namespace

void AddInspect(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("inspect", "All that is known of a pod, container or image, as JSON");
  auto name = std::make_shared<std::string>();
  sub->add_option("NAME", *name, "Id, prefix, name or reference")->required();
  command.AddOutput(sub);
  sub->callback([&command, name] {
    command.Run([&]() -> Result<> {
      Print(TRY(Inspect(command.client(), *name)));
      return {};
    });
  });
}

}  // namespace caisson::cli

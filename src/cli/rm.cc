// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "cli/command.h"
#include "cli/lifecycle.h"

namespace caisson::cli {
namespace {

struct RmOptions {
  std::vector<std::string> names;
  bool force = false;
};

Result<> RemoveOne(Client& client, const std::string& name, bool force) {
  if (auto pod = FindPod(client, name)) {
    if (pod->state() == runtime::v1::SANDBOX_READY) {
      if (!force) return MakeError(Code::kFailedPrecondition, "pod '{}' is ready; stop it first or use --force", name);
      TRY(StopPod(client, pod->id()));
    }
    return RemovePod(client, pod->id());
  }
  auto container = FindContainer(client, name);
  if (!container) return MakeError(Code::kNotFound, "no pod or container '{}' (see `caisson pods`, `caisson ps -a`)", name);
  if (container->state() == runtime::v1::CONTAINER_RUNNING && !force) {
    return MakeError(Code::kFailedPrecondition, "container '{}' is running; stop it first or use --force", name);
  }
  return RemoveContainer(client, container->id());
}

}  // namespace

void AddRm(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("rm", "Remove pods (with all their containers) or single containers");
  auto options = std::make_shared<RmOptions>();
  sub->add_option("NAME", options->names, "Pods or containers, by id, prefix or name")->required();
  sub->add_flag("-f,--force", options->force, "Also what is running");
  sub->callback([&command, options] {
    for (const auto& name : options->names) {
      command.Run([&] { return RemoveOne(command.client(), name, options->force); });
    }
  });
}

}  // namespace caisson::cli

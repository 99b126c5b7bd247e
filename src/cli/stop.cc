// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "cli/command.h"
#include "cli/lifecycle.h"

namespace caisson::cli {
namespace {

struct StopOptions {
  std::vector<std::string> names;
  int64_t grace_seconds = 10;
};

Result<> StopOne(Client& client, const std::string& name, int64_t grace_seconds) {
  if (auto pod = FindPod(client, name)) return StopPod(client, pod->id());
  auto container = FindContainer(client, name);
  if (!container) return MakeError(Code::kNotFound, "no pod or container '{}' (see `caisson pods`, `caisson ps -a`)", name);
  return StopContainer(client, container->id(), grace_seconds);
}

}  // namespace

void AddStop(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("stop", "Stop pods (with all their containers) or single containers");
  auto options = std::make_shared<StopOptions>();
  sub->add_option("NAME", options->names, "Pods or containers, by id, prefix or name")->required();
  sub->add_option("-t,--time", options->grace_seconds, "Seconds between a container's stop signal and SIGKILL")
      ->capture_default_str();
  sub->callback([&command, options] {
    for (const auto& name : options->names) {
      command.Run([&] { return StopOne(command.client(), name, options->grace_seconds); });
    }
  });
}

}  // namespace caisson::cli

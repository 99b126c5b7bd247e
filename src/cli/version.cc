// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

void AddVersion(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("version", "Versions of this command and of the daemon");
  command.AddOutput(sub);
  sub->callback([&command] {
    Client& client = command.client();
    auto daemon = client.Call(client.runtime(), &RuntimeService::Stub::Version, runtime::v1::VersionRequest(), 5);
    if (command.json()) {
      runtime::v1::VersionResponse reply;
      if (daemon) reply = *daemon;
      Print(fmt::format("{{\"client\": \"{}\", \"daemon\": {}}}\n", CAISSON_VERSION, daemon ? ToJson(reply) : "null"));
      return;
    }
    Print(fmt::format("caisson   {}\n", CAISSON_VERSION));
    if (daemon) {
      Print(fmt::format("daemon    {} {} (CRI {}) at {}\n", daemon->runtime_name(), daemon->runtime_version(),
                        daemon->runtime_api_version(), client.socket()));
    } else {
      Print(fmt::format("daemon    no answer at {}\n", client.socket()));
    }
  });
}

}  // namespace caisson::cli

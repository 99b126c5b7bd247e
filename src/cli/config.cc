// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"

namespace caisson::cli {

void AddConfig(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("config", "The daemon's effective configuration, as TOML that it would accept");
  sub->callback([&command] {
    command.Run([&]() -> Result<> {
      Client& client = command.client();
      Print(TRY(client.Call(client.control(), &control::v1::Control::Stub::Config, control::v1::ConfigRequest())).toml());
      return {};
    });
  });
}

}  // namespace caisson::cli
